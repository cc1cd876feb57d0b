"""Containers as a node has them: runc, a limit, no capability, and a filter of system calls."""

import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from kernel.conftest import Cgroup, Target, wait_until
from ksm_operator.kernel import Hierarchy, find_process

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

    def __init__(self, runc: str, program: Path, folder: Path, hierarchy: Hierarchy) -> None:
        self._runc = (runc, "--root", str(folder / "state"))
        self._program = program
        self._folder = folder
        self._hierarchy = hierarchy
        self.containers: list[Container] = []

    def run(self, *arguments: str, limit: int) -> Container:
        """Start the program, which says `ready`, in a container of its own with so many bytes."""
        name = f"ksm-test-{secrets.token_hex(4)}"
        bundle = self._folder / name
        root = bundle / "root"
        (root / "proc").mkdir(parents=True)
        shutil.copy(self._program, root / "program")
        for folder in (bundle, root):
            folder.chmod(0o755)
        (bundle / "config.json").write_text(json.dumps(_specification(name, arguments, limit)))
        pid_file = bundle / "pid"
        popen = subprocess.Popen(
            [
                *(*self._runc, "run", "--bundle", str(bundle), "--pid-file", str(pid_file)),
                # What a machine boots from memory has as its root cannot be pivoted from.
                *("--no-pivot", name),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        made = Container(name, popen, [*self._runc, "delete", "--force", name])
        self.containers.append(made)
        assert made.line() == "ready"
        # The program may be ready before runc has come to writing this down.
        wait_until(pid_file.exists, "runc has written the pid")
        made.process = find_process(int(pid_file.read_text()))
        directory = self._hierarchy.directory(made.pid)
        assert directory.name == name
        made.cgroup = Cgroup(directory, self._hierarchy.version)
        return made

    def limit(self, container: Container, size: int) -> None:
        """Change its limit, as a resize of a pod does."""
        subprocess.run([*self._runc, "update", "--memory", str(size), container.name], check=True)


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
    found = shutil.which("runc", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
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
