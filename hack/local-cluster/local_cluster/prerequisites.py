"""What the machine must bring, and who brings it: checked before anything is touched."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from local_cluster.errors import LocalClusterError

Say = Callable[[str], None]

ADMIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CAP_SYS_RESOURCE = 24


@dataclass(frozen=True)
class Need:
    """A thing that has to be there, and the Debian packages that bring it."""

    what: str
    present: Callable[[], bool]
    packages: tuple[str, ...]


def which(program: str) -> str | None:
    """Where `program` is, also when a user's PATH has no sbin folders."""
    return shutil.which(program) or shutil.which(program, path=ADMIN_PATH)


def _program(name: str, *packages: str) -> Need:
    return Need(name, lambda: which(name) is not None, packages)


def _c_compiles(source: str, *arguments: str) -> bool:
    compiler = which("cc")
    if compiler is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe.c"
        file.write_text(source)
        command = [compiler, str(file), "-o", f"{folder}/probe", *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _has_seccomp() -> bool:
    config = which("pkg-config")
    if config is None:
        return False
    return subprocess.run([config, "--exists", "libseccomp"], check=False).returncode == 0


RUNNING = (
    _program("ip", "iproute2"),
    _program("iptables", "iptables"),
    _program("nsenter", "util-linux"),
    _program("unshare", "util-linux"),
    _program("mount", "mount"),
    _program("openssl", "openssl"),
)
"""What a cluster needs while it runs."""

BUILDING_RUNC = (
    Need("a C compiler (cc)", lambda: which("cc") is not None, ("gcc", "libc6-dev")),
    _program("pkg-config", "pkg-config"),
    Need("libseccomp's headers", _has_seccomp, ("libseccomp-dev",)),
)
"""What building runc needs."""

BUILDING_IMAGES = (
    Need(
        "a C compiler and a static C library",
        lambda: _c_compiles("int main(void) { return 0; }\n", "-static"),
        ("gcc", "libc6-dev"),
    ),
    Need(
        "a static busybox (/bin/busybox)",
        lambda: static_busybox() is not None,
        ("busybox-static",),
    ),
)
"""What building the pause and busybox images needs."""

TESTING = (
    _program("javac", "default-jdk-headless"),
    _program("node", "nodejs"),
    _program("crun", "crun"),
)
"""Runtimes whose processes the tests enrol; they compile C programs with the same compiler."""

EVERYTHING = RUNNING + BUILDING_RUNC + BUILDING_IMAGES + TESTING
"""What any command may need."""


def static_busybox() -> Path | None:
    """The machine's statically linked busybox, None without one."""
    for folder in ("/bin", "/usr/bin", "/usr/local/bin"):
        file = Path(folder) / "busybox"
        if file.is_file() and b"/ld-linux" not in file.read_bytes():
            return file
    return None


def require_root() -> None:
    """Refuse early and clearly without root.

    Raises:
        LocalClusterError: The user is not root.
    """
    if os.geteuid() != 0:
        raise LocalClusterError(
            "The local cluster makes network namespaces, mounts and cgroups, so it needs root."
            " Run the same command with sudo -E, or in a root shell."
        )


def lacking(needs: Iterable[Need]) -> list[Need]:
    """The needs that are not met now."""
    return [need for need in needs if not need.present()]


def provide(needs: Iterable[Need], say: Say) -> None:
    """Install what is missing with apt-get, or name it.

    Raises:
        LocalClusterError: Something is missing and apt-get is not there or did not help.
    """
    absent = lacking(needs)
    if not absent:
        return
    packages = sorted({package for need in absent for package in need.packages})
    names = ", ".join(need.what for need in absent)
    command = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
    apt = which("apt-get")
    if apt is None:
        raise LocalClusterError(
            f"Missing: {names}. Install them with your package manager;"
            f" on Debian or Ubuntu: {command}"
        )
    require_root()
    say(f"Missing: {names}. Installing {', '.join(packages)} with apt-get ...")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (
        ["update", "-q"],
        ["install", "-q", "-y", "--no-install-recommends", *packages],
    ):
        answer = subprocess.run(
            [apt, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        # A stale package list of some other source must not stop us: install decides.
        if answer.returncode != 0 and arguments[0] == "install":
            tail = "\n  ".join((answer.stdout + answer.stderr).splitlines()[-8:])
            raise LocalClusterError(f"apt-get could not install it:\n  {tail}\nTry: {command}")
    if still := lacking(absent):
        raise LocalClusterError(
            f"Still missing after `{command}`: {', '.join(need.what for need in still)}"
        )


def may_lower_oom_score(status: Path = Path("/proc/self/status")) -> bool:
    """Whether we hold CAP_SYS_RESOURCE: root in a container or sandbox often does not."""
    for line in status.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> CAP_SYS_RESOURCE & 1)
    return False
