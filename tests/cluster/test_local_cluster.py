"""The local cluster itself, tried on a second one beside the one that the other tests use."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.command import REPOSITORY, Command, Kubectl, wait_until
from support import kernel, machine

SECOND = "9"
NAME = f"ksm-operator-local{SECOND}"
LINK = f"ksm-local{SECOND}-1"
ADDRESS = f"10.99.{SECOND}.1"
BUILD_SECONDS = 3000
SHARED_FOLDERS = ("/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/run/containerd")
SETTINGS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")


def _cgroups() -> list[Path]:
    top = Path("/sys/fs/cgroup")
    return [found for root in (top, *top.iterdir()) for found in root.glob(f"{NAME}/**/")]


def _processes() -> list[str]:
    """Programs that run in the second cluster's cgroups or network, or from its files."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text()
            cgroups = (folder / "cgroup").read_text()
        except OSError:
            continue
        # One that has ended and waits for init to notice has no command any more.
        if command and NAME in command + cgroups:
            found.append(command)
    return found


def _files_elsewhere() -> list[Path]:
    """Files that say they are the second cluster's, in folders that it shares with others."""
    files = [file for folder in SHARED_FOLDERS for file in sorted(Path(folder).rglob("*"))]
    return [
        file
        for file in files
        if (file.is_symlink() and NAME in str(file.readlink()))
        or (file.is_file() and NAME in file.read_text(errors="replace"))
    ]


def _left() -> dict[str, object]:
    """All that a cluster could leave on a machine; its namespaces are mounts."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    links = json.loads(subprocess.check_output(["ip", "-json", "link"]))
    routes = json.loads(subprocess.check_output(["ip", "-json", "route"]))
    return {
        "processes": _processes(),
        "mounts": [line for line in mounts if NAME in line],
        "links": [link["ifname"] for link in links if link["ifname"] == LINK],
        "routes": [route["dst"] for route in routes if route.get("dev") == LINK],
        "addresses": [
            address
            for route in json.loads(
                subprocess.check_output(["ip", "-json", "route", "show", "table", "local"])
            )
            if (address := str(route["dst"])).startswith(f"10.99.{SECOND}.")
        ],
        "cgroups": _cgroups(),
        "folders": [one for one in (f"/run/{NAME}", f"/var/lib/{NAME}") if Path(one).exists()],
        "files elsewhere": [str(file) for file in _files_elsewhere()],
        "settings": {name: (Path("/proc/sys") / name).read_text() for name in SETTINGS},
    }


@pytest.fixture(scope="module")
def make() -> Iterator[Command]:
    """Run make for the second cluster; whatever a test leaves of it is taken down."""
    if not kernel.is_root():
        machine.missing("The local cluster needs root", "sudo make test")
    if shutil.which("go") is None:
        machine.missing("The local cluster is built with Go", "apt-get install golang-go")
    command = Command("make", {**os.environ, "KSM_LOCAL_CLUSTER": SECOND})
    command("-s", "cluster-down")
    yield command
    command("-s", "cluster-down")


def _up(make: Command) -> None:
    make("-s", "cluster-up", timeout=BUILD_SECONDS)


def _shell(make: Command) -> dict[str, str]:
    """The environment of a shell that evaluated `make cluster-env`."""
    script = 'eval "$(make -s cluster-env)" && env -0'
    printed = Command("bash", make.environment)("-c", script).stdout
    return dict(item.split("=", 1) for item in printed.rstrip("\0").split("\0"))


def _kubectl(make: Command) -> Kubectl:
    return Kubectl("kubectl", _shell(make))


def _run_pod(kubectl: Kubectl, name: str) -> None:
    image = "localhost/ksm-operator-busybox:1"
    script = "trap 'exit 0' TERM; echo hello; sleep 3600 & wait"
    kubectl("run", name, f"--image={image}", "--command", "--", "sh", "-c", script)
    kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


def test_runs_pods_and_leaves_nothing_behind(make: Command) -> None:
    """A cluster on somebody's machine is only welcome if it goes away without a trace."""
    make("-s", "cluster-down")
    before = _left()
    _up(make)
    kubectl = _kubectl(make)
    _run_pod(kubectl, "hello")
    assert kubectl("logs", "hello").stdout == "hello\n"
    assert kubectl("exec", "hello", "--", "cat", "/proc/1/comm").stdout == "sh\n"
    assert f"/{NAME}/kubepods/" in kubectl("exec", "hello", "--", "cat", "/proc/1/cgroup").stdout
    make("-s", "cluster-down")
    assert _left() == before


def test_listens_on_the_link_only_this_machine_has(make: Command) -> None:
    """The API server of a toy cluster must not be offered to the network the machine is on."""
    _up(make)
    pids = {
        pid
        for folder in _cgroups()
        for pid in (folder / "cgroup.procs").read_text().split()
        if Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    }
    listening = subprocess.check_output(["ss", "-Hltnp"], text=True).splitlines()
    ours = [line.split()[3] for line in listening if any(f"pid={pid}," in line for pid in pids)]
    assert ours == [f"{ADDRESS}:6443"]


def test_up_again_keeps_what_runs(make: Command) -> None:
    """People type `make cluster-up` to be sure; their pods and processes must not notice."""
    _up(make)
    before = make("-s", "cluster-status").stdout
    _up(make)
    assert make("-s", "cluster-status").stdout == before


@pytest.mark.parametrize("seconds", [1.0, 4.0])
def test_up_recovers_from_a_killed_up(make: Command, seconds: float) -> None:
    """A closed terminal in the middle must not need a hand-made clean-up."""
    make("-s", "cluster-down")
    _kill_after(make, "up", seconds)
    _up(make)
    _run_pod(_kubectl(make), "after")


def test_down_recovers_from_a_killed_up_and_a_killed_down(make: Command) -> None:
    """Whatever state the cluster is in, `down` is the way out of it."""
    make("-s", "cluster-down")
    before = _left()
    _kill_after(make, "up", 5)
    _kill_after(make, "down", 1)
    make("-s", "cluster-down")
    assert _left() == before


def test_down_takes_an_emulated_machine_along(make: Command) -> None:
    """Nobody thinks of it when they type `make cluster-down`, and it would run on for good."""
    make("-s", "cluster-down")
    before = _left()
    process = subprocess.Popen(
        ["make", "-s", "cluster-up", "NODES=vm:7"],
        cwd=REPOSITORY,
        env=make.environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: any("qemu" in one for one in _processes()), BUILD_SECONDS, "it is on")
    finally:
        # What is seen here is seen before it has booted, too, which would take a minute.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    make("-s", "cluster-down")
    assert _left() == before


def _kill_after(make: Command, verb: str, seconds: float) -> None:
    """SIGKILL for the program and nothing else, as the kernel's OOM killer does it."""
    process = subprocess.Popen(
        ["python3", "hack/local-cluster", verb],
        cwd=REPOSITORY,
        env=make.environment,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_stopped_service_is_started_again(make: Command) -> None:
    """Tests of outages stop the API server; `up` must bring back what is missing."""
    _up(make)
    cluster = Command("python3", make.environment)
    cluster("hack/local-cluster", "stop", "kube-apiserver")
    status = make("-s", "cluster-status", check=False)
    assert status.returncode != 0
    assert "kube-apiserver             stopped" in status.stdout
    _up(make)
    assert make("-s", "cluster-status").returncode == 0


def test_names_the_program_on_a_busy_port(make: Command) -> None:
    """`address already in use` in some log is no help; who uses it is."""
    _up(make)
    cluster = Command("python3", make.environment)
    cluster("hack/local-cluster", "stop", "kube-apiserver")
    with socket.create_server((ADDRESS, 6443)):
        failed = make("-s", "cluster-up", check=False)
    assert failed.returncode != 0
    assert "Port 6443 is busy" in failed.stderr
    assert f"pid={os.getpid()}" in failed.stderr


def test_load_prints_the_names_pods_can_use(make: Command, tmp_path: Path) -> None:
    """An archive whose image has no usable name would otherwise fail only when a pod starts."""
    _up(make)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ksm-operator"
    archive = next((cache / "images").glob("busybox-*.tar"))
    assert make("-s", "cluster-load", f"ARCHIVE={archive}").stdout.split() == [
        "localhost/ksm-operator-busybox:1"
    ]
    nothing = tmp_path / "empty.tar"
    nothing.write_bytes(b"")
    failed = make("-s", "cluster-load", f"ARCHIVE={nothing}", check=False)
    assert failed.returncode != 0
    assert "is no image archive" in failed.stderr
