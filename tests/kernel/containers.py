"""Containers as a node has them: a runtime, a limit, no capability, a filter of system calls."""

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kernel.conftest import Cgroup, Target, wait_until
from ksm_operator.kernel import Hierarchy, find_process
from support import machine

PATH = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin"
HYBRID = Path("/sys/fs/cgroup/unified")
"""Where a machine with cgroup version 1 has version 2 beside it."""
NOBODY = 65534
ALLOWED = (
    *("access", "arch_prctl", "brk", "capget", "capset", "chdir", "clock_gettime", "clone"),
    *("clone3", "close", "dup", "dup3", "epoll_create1", "epoll_ctl", "epoll_pwait", "execve"),
    *("exit", "exit_group", "fchdir", "fcntl", "fstat", "fstatfs", "futex", "getcwd"),
    *("getdents64", "getegid", "geteuid", "getgid", "getpid", "getppid", "getrandom"),
    *("getrlimit", "gettid", "getuid", "ioctl", "lseek", "madvise", "mmap", "mprotect", "munmap"),
    *("nanosleep", "newfstatat", "openat", "openat2", "pipe2", "prlimit64", "read", "readlinkat"),
    *("rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_yield"),
    *("set_robust_list", "set_tid_address", "setgid", "setgroups", "setuid", "sigaltstack"),
    *("statx", "tgkill", "uname", "write", "writev"),
)
"""What the holder and the last steps of runc call. Not prctl: a runtime's own filter allows it,
but a target's filter must not matter."""


class Container(Target):
    """A running container, and its process as this machine sees it."""

    def __init__(self, name: str, popen: "subprocess.Popen[str]", remove: list[str]) -> None:
        super().__init__(popen)
        self.name = name
        self.cgroup: Cgroup
        self._remove = remove

    @property
    def pid(self) -> int:
        """The process id of its program; that of the one that was started is runc's."""
        return self.process.pid

    def kill(self) -> None:
        """Remove it as runtimes do, with its cgroup."""
        subprocess.run(self._remove, check=True)
        super().kill()


class Runtime:
    """A runtime that keeps what it makes in a folder.

    Attributes:
        containers: those that it started; whoever made the runtime ends them.
    """

    def __init__(
        self, command: Sequence[str], program: Path, folder: Path, hierarchy: Hierarchy
    ) -> None:
        self._command = (*command, "--root", str(folder / "state"))
        self._program = program
        self._folder = folder
        self._hierarchy = hierarchy
        self.containers: list[Container] = []

    def run(self, *arguments: str, limit: int) -> Container:
        """Start the program, which says `ready`, in a container of its own with so many bytes."""
        made, pid_file = self._call("run", arguments, limit)
        assert made.line() == "ready"
        # The program may be ready before the runtime has come to writing this down.
        wait_until(pid_file.exists, "the runtime has written the pid")
        self._place(made, int(pid_file.read_text()))
        return made

    def create(self, *arguments: str, limit: int) -> Container:
        """As `run`, but only up to where the runtime's init waits for `start`."""
        made, pid_file = self._call("create", arguments, limit)
        assert made.popen.wait(timeout=60) == 0
        self._place(made, int(pid_file.read_text()))
        return made

    def start(self, container: Container) -> None:
        """Have the init of a container that was created become the program."""
        subprocess.run([*self._command, "start", container.name], check=True)
        assert container.line() == "ready"

    def _call(self, verb: str, arguments: tuple[str, ...], limit: int) -> tuple[Container, Path]:
        name = f"ksm-test-{secrets.token_hex(4)}"
        bundle = self._folder / name
        root = bundle / "root"
        # crun wants a /dev, too, though nothing is mounted there.
        for folder in (root / "proc", root / "dev"):
            folder.mkdir(parents=True)
        shutil.copy(self._program, root / "program")
        for folder in (bundle, root):
            folder.chmod(0o755)
        (bundle / "config.json").write_text(json.dumps(_specification(name, arguments, limit)))
        pid_file = bundle / "pid"
        popen = subprocess.Popen(
            [
                *(*self._command, verb, "--bundle", str(bundle), "--pid-file", str(pid_file)),
                # What a machine boots from memory has as its root cannot be pivoted from.
                *("--no-pivot", name),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        made = Container(name, popen, [*self._command, "delete", "--force", name])
        self.containers.append(made)
        return made, pid_file

    def _place(self, made: Container, pid: int) -> None:
        made.process = find_process(pid)
        directory = self._hierarchy.directory(pid)
        assert directory.name == made.name
        made.cgroup = Cgroup(directory, self._hierarchy.version)

    def limit(self, container: Container, size: int) -> None:
        """Change its limit, as a resize of a pod does."""
        subprocess.run(
            [*self._command, "update", "--memory", str(size), container.name], check=True
        )


def _specification(name: str, arguments: tuple[str, ...], limit: int) -> dict[str, Any]:
    """The OCI runtime specification of a container without rights."""
    kinds = ("pid", "mount", "ipc", "uts", "network")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": NOBODY, "gid": NOBODY},
            "args": ["/program", *arguments],
            "env": ["PATH=/"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": "root"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": f"/{name}",
            "resources": {"memory": {"limit": limit}},
            "namespaces": [{"type": kind} for kind in kinds],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": list(ALLOWED), "action": "SCMP_ACT_ALLOW"}],
            },
        },
    }


def find_runc() -> str | None:
    """This machine's runc, or else the local cluster's, which is built if it must be."""
    found = shutil.which("runc", path=PATH)
    if found is not None:
        return found
    built = subprocess.run(
        [sys.executable, "hack/local-cluster", "build", "runc"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return f"{built.stdout.strip()}/runc" if built.returncode == 0 else None


def find_crun() -> tuple[str, ...] | None:
    """This machine's crun, as the beginning of a command.

    It refuses machines that have both versions of cgroups mounted. In a mount namespace of its own,
    which sees version 1 alone, it makes the same containers in the same cgroups there too.
    """
    found = shutil.which("crun") or shutil.which("crun", path=PATH)
    if found is None:
        return None
    if not HYBRID.is_mount():
        return (found,)
    return ("unshare", "--mount", "sh", "-c", f'umount {HYBRID} && exec "$0" "$@"', found)


def runtimes() -> dict[str, tuple[str, ...]]:
    """The beginnings of commands by which this machine's runtimes are called, by name."""
    runc, crun = find_runc(), find_crun()
    found = {"runc": (runc,) if runc is not None else None, "crun": crun}
    return {name: command for name, command in found.items() if command is not None}


def require_runtime(name: str) -> tuple[str, ...]:
    """The beginning of a command of runc or crun; skips what cannot run without it."""
    found = runtimes().get(name)
    if found is None:
        machine.missing(f"Containers are started by {name}", f"apt-get install {name}")
    return found
