"""The cluster's programs: pinned Go modules, built once per user."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from local_cluster import layout
from local_cluster.errors import LocalClusterError

OLDEST_GO = (1, 21)
"""The first Go that fetches the toolchain a go.mod asks for (GOTOOLCHAIN=auto)."""

PROGRESS_SECONDS = 30.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Component:
    """One go.mod of components/ and how it is built.

    Attributes:
        name: Folder below components/.
        programs: The programs it gives, by the name they get in the cache.
        cold_seconds: Time of a first build on two cores, downloads not counted.
        ldflags: Beyond stripping.
        tags: Go build tags.
        cgo: Whether it needs a C compiler.
        renamed: What Go calls a program, to what we call it.
    """

    name: str
    programs: tuple[str, ...]
    cold_seconds: int
    ldflags: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    cgo: bool = False
    renamed: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> Path:
        """The folder of its go.mod."""
        return layout.COMPONENTS / self.name

    def arguments(self) -> list[str]:
        """`go` arguments, without the output folder."""
        flags = " ".join(("-s", "-w", *self.ldflags))
        tags = ["-tags", ",".join(self.tags)] if self.tags else []
        return ["build", "-mod=readonly", "-trimpath", "-buildvcs=false", *tags, "-ldflags", flags]


def _kubernetes() -> Component:
    version = "1.37.2"
    major, minor, _ = version.split(".")
    base = "k8s.io/component-base/version"
    return Component(
        "kubernetes",
        (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        ),
        cold_seconds=540,
        # Without them everything calls itself v0.0.0-master, and charts' kubeVersion checks fail.
        ldflags=(
            f"-X {base}.gitVersion=v{version}",
            f"-X {base}.gitMajor={major}",
            f"-X {base}.gitMinor={minor}",
            f"-X k8s.io/client-go/pkg/version.gitVersion=v{version}",
        ),
    )


COMPONENTS = {
    component.name: component
    for component in (
        Component("etcd", ("etcd",), 25, renamed=(("server", "etcd"),)),
        # Without seccomp in runc no pod sandbox starts.
        Component("runc", ("runc",), 10, tags=("seccomp",), cgo=True),
        Component("cni", ("bridge", "host-local", "loopback", "portmap"), 6),
        Component("containerd", ("containerd", "containerd-shim-runc-v2", "ctr"), 68),
        _kubernetes(),
        Component("helm", ("helm",), 116),
        Component("kwok", ("kwok",), 81),
    )
}

CLUSTER = ("etcd", "runc", "cni", "containerd", "kubernetes", "helm")
"""What a running cluster and its user need; kwok is built on request."""

CONTROL_PLANE = ("etcd", "kubernetes", "helm")
"""What a control plane without nodes and its user need."""


def cache_key(component: Component) -> str:
    """A short name that changes with everything that decides what the programs are."""
    digest = hashlib.sha256()
    for file in ("go.mod", "go.sum"):
        digest.update((component.source / file).read_bytes())
    digest.update("\0".join([*component.arguments(), str(component.cgo)]).encode())
    return digest.hexdigest()[:16]


def folder(component: Component) -> Path:
    """Where the finished programs are kept."""
    return layout.user_cache() / f"{component.name}-{cache_key(component)}"


def program(name: str) -> Path:
    """The finished program `name`, wherever it comes from."""
    for component in COMPONENTS.values():
        if name in component.programs:
            return folder(component) / name
    raise KeyError(name)


def build_environment(inherited: Mapping[str, str], *, cgo: bool) -> dict[str, str]:
    """The environment of `go build`: the user's proxies and caches, but none of their flags."""
    dropped = {"GOOS", "GOARCH", "GOBIN", "GOEXPERIMENT", "GOMOD"}
    kept = {name: value for name, value in inherited.items() if name not in dropped}
    return kept | {
        "GOFLAGS": "-mod=readonly",
        "GOTOOLCHAIN": "auto",
        "GOWORK": "off",
        "GO111MODULE": "on",
        "CGO_ENABLED": "1" if cgo else "0",
    }


def parse_go_version(text: str) -> tuple[int, int] | None:
    """The release in `go1.26.8` or `devel go1.27-abc`, None if there is none."""
    match = re.search(r"go(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def find_go() -> str:
    """A usable Go.

    Raises:
        LocalClusterError: There is none, or it is too old to fetch a newer one itself.
    """
    advice = (
        "Install Go 1.21 or later: https://go.dev/dl/ (on Debian 13: apt-get install golang-go)."
    )
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if found is None:
        raise LocalClusterError(f"The cluster is built with Go, and no `go` is on PATH. {advice}")
    # Outside any module, so that no go.mod or go.work chooses another toolchain.
    answer = subprocess.run(
        [found, "version"],
        cwd="/",
        env={**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    version = parse_go_version(answer.stdout)
    if version is None:
        raise LocalClusterError(
            f"`{found} version` says {answer.stdout + answer.stderr!r}. {advice}"
        )
    if version < OLDEST_GO:
        raise LocalClusterError(f"{found} is {answer.stdout.strip()!r}, which is too old. {advice}")
    return found


def missing(names: tuple[str, ...]) -> list[Component]:
    """The components among `names` that are not in the cache."""
    return [COMPONENTS[name] for name in names if not folder(COMPONENTS[name]).is_dir()]


def build(component: Component, say: Say) -> None:
    """Build one component into the cache; it appears there whole or not at all."""
    go = find_go()
    cores = os.cpu_count() or 1
    estimate = duration(component.cold_seconds * 2 / min(cores, 8))
    say(f"{component.name}: building, up to {estimate} on {cores} cores the first time ...")
    target = folder(component)
    target.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=f".{component.name}-", dir=target.parent))
    try:
        _go_build(go, component, work, say)
        for built, wanted in component.renamed:
            (work / built).rename(work / wanted)
        absent = [name for name in component.programs if not (work / name).is_file()]
        if absent:
            raise LocalClusterError(f"{component.name}: go built no {', '.join(absent)}")
        work.chmod(0o755)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"{component.name}: done after {duration(time.monotonic() - started)}")


def _go_build(go: str, component: Component, output: Path, say: Say) -> None:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [go, *component.arguments(), "-o", f"{output}/", "tool"],
            cwd=component.source,
            env=build_environment(os.environ, cgo=component.cgo),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        started = time.monotonic()
        try:
            while True:
                try:
                    code = process.wait(PROGRESS_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say(f"{component.name}: still building, {duration(time.monotonic() - started)}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if code != 0:
            log.seek(0)
            tail = log.read().decode(errors="replace").splitlines()[-15:]
            raise LocalClusterError(
                f"{component.name}: go build failed in {component.source}:\n  " + "\n  ".join(tail)
            )


def ensure(names: tuple[str, ...], say: Say) -> None:
    """Build what is missing among `names`; who needs only what is there never waits.

    Raises:
        LocalClusterError: Go is missing or too old, or a build failed.
    """
    todo = missing(names)
    if len(todo) > 1:
        total = sum(component.cold_seconds for component in todo) * 2 / min(os.cpu_count() or 1, 8)
        say(
            f"Building {len(todo)} components, up to {duration(total)} in all, once;"
            f" they are kept in {layout.user_cache()}"
        )
    for component in todo:
        with _only_one(component, say):
            if not folder(component).is_dir():
                build(component, say)


@contextlib.contextmanager
def _only_one(component: Component, say: Say) -> Iterator[None]:
    cache = layout.user_cache()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"build-{component.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another command builds {component.name} now; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Nobody else builds it now, so this is what a killed build left.
        for unfinished in cache.glob(f".{component.name}-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        yield


def duration(seconds: float) -> str:
    """`95` as `1 min 35 s`, for people."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
