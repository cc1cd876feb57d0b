"""Long-running programs: found by what they run in our cgroup, never by a file that may lie."""

import contextlib
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from local_cluster import cgroups, layout
from local_cluster.errors import LocalClusterError

# Joins the cgroups before the program starts, so that every child is born in them.
_JOIN_THEN_RUN = 'while [ "$1" != -- ]; do echo $$ >"$1"; shift; done; shift; exec "$@"'

OUTDATED_SECONDS = 10.0
LOG_LINES_SHOWN = 12


@dataclass(frozen=True)
class Service:
    """One program of the cluster.

    Attributes:
        name: What people call it.
        command: The program with its arguments, exactly as /proc shows it.
        namespace: The network namespace it runs in, None for the host's.
        search_path: Folders that go before the system's on its PATH.
        niceness: How much it gives way to others.
        mark: The argument that tells it from other services of the same program.
        variables: Environment variables beyond PATH, HOME and LANG.
    """

    name: str
    command: tuple[str, ...]
    namespace: Path | None = None
    search_path: tuple[Path, ...] = field(default=())
    niceness: int = 0
    mark: str = ""
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def log(self) -> Path:
        """Its standard output and error."""
        return layout.STATE / "logs" / f"{self.name}.log"


def command_of(pid: int) -> tuple[str, ...]:
    """The command line of a process, empty if it is gone or a zombie."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(raw.decode(errors="replace").rstrip("\0").split("\0")) if raw else ()


def find(service: Service) -> int | None:
    """The process that runs exactly this service, None if there is none."""
    found = {pid for pid in cgroups.members("system") if command_of(pid) == service.command}
    # One that starts another program is there twice until that one has begun.
    return next((pid for pid in found if parent_of(pid) not in {None, *found}), None)


def parent_of(pid: int) -> int | None:
    """The parent's process id, None if the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])


def outdated(service: Service) -> list[int]:
    """Processes of ours that run this service's program for it with other arguments."""
    return [
        pid
        for pid in cgroups.members("system")
        if (command := command_of(pid))
        and Path(command[0]).name == Path(service.command[0]).name
        and command != service.command
        and (not service.mark or service.mark in command)
        and not _is_shim_or_child(command)
    ]


def _is_shim_or_child(command: tuple[str, ...]) -> bool:
    return Path(command[0]).name in {"containerd-shim-runc-v2", "runc"}


def start(service: Service) -> int:
    """Start a service unless it runs already; returns its process id."""
    running = find(service)
    if running is not None:
        return running
    stop_pids(outdated(service), OUTDATED_SECONDS)
    service.log.parent.mkdir(parents=True, exist_ok=True)
    system = os.environ.get("PATH", os.defpath)
    environment = {
        "PATH": ":".join([*map(str, service.search_path), system, "/usr/sbin", "/sbin"]),
        "HOME": "/root",
        "LANG": "C.UTF-8",
        **dict(service.variables),
    }
    enter = ["nsenter", f"--net={service.namespace}", "--"] if service.namespace else []
    nice = ["nice", "-n", str(service.niceness)]
    joins = [str(file) for file in cgroups.entrances()]
    with service.log.open("ab") as log:
        process = subprocess.Popen(
            ["sh", "-c", _JOIN_THEN_RUN, "sh", *joins, "--", *enter, *nice, *service.command],
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # It outlives this program on purpose; without a returncode its destructor would warn.
    process.returncode = 0
    return process.pid


def is_alive(pid: int) -> bool:
    """Whether the process exists and has not ended (a zombie has)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def raise_file_limit() -> None:
    """Let the services open as many files as root may: containerd needs thousands."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def log_tail(service: Service) -> str:
    """The last lines of its log, indented, for an error message."""
    try:
        lines = service.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in lines)


def require_alive(service: Service, pid: int) -> None:
    """Fail with the log if a service has ended.

    Raises:
        LocalClusterError: It is not running any more.
    """
    if not is_alive(pid):
        raise LocalClusterError(f"{service.name} ended. {service.log}:\n{log_tail(service)}")


def stop_pids(pids: Iterable[int], patience: float) -> None:
    """SIGTERM, wait until they are gone, and SIGKILL what is left after `patience` seconds."""
    for last_word, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        handles: dict[int, int] = {}
        for pid in pids:
            if is_alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    handles[os.pidfd_open(pid)] = pid
        try:
            for handle in handles:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, last_word)
            _wait_for(set(handles), wait)
        finally:
            for handle in handles:
                os.close(handle)


def _wait_for(handles: set[int], patience: float) -> None:
    deadline = time.monotonic() + patience
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    while handles and (rest := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(rest * 1000):
            poll.unregister(handle)
            handles.discard(handle)
    # Our own children become zombies, which have ended but still fill the process table.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
