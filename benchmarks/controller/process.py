"""The controller as a process: the very command that its pod runs, and what it takes."""

from __future__ import annotations

import http.client
import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.controller import chart
from benchmarks.controller.cpu import process_seconds
from benchmarks.controller.observer import wait_until
from local_cluster import processes
from local_cluster.layout import NODE
from local_cluster.processes import Service

_MODULE: Final = "ksm_operator.controller"
PORT: Final = 8080
READY_SECONDS: Final = 120.0
STOP_SECONDS: Final = 10.0
_KIB_PER_MIB: Final = 1 << 10
"""KiB in one."""
_POLL_SECONDS: Final = 0.5
_RECONCILES: Final = "ksm_operator_reconcile_seconds"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process took up to a moment.

    Attributes:
        at: when, on the monotonic clock.
        cpu: seconds of CPU time since its start, all its lives together.
        rss: resident memory, MiB.
        reconciles: how often it has reconciled since its start.
        reconcile_seconds: for how long, all together.
    """

    at: float
    cpu: float
    rss: float
    reconciles: float
    reconcile_seconds: float


class Controller:
    """The controller, started again when it ends by itself, as a kubelet does.

    It runs in the network namespace of the instance, because it serves on every address.

    Attributes:
        deaths: how often it ended by itself.
    """

    def __init__(self, log_level: str = "info") -> None:
        self.deaths = 0
        self._stopped = threading.Event()
        self._spent = 0.0
        self._pid = 0
        self._service = Service(
            "ksm-controller",
            (
                *(sys.executable, "-m", _MODULE, "run"),
                *("--namespace", chart.NAMESPACE, "--lease", chart.CONTROLLER),
                *("--deployment", chart.CONTROLLER, "--agent-template", str(chart.TEMPLATE)),
                *("--log-level", log_level, "--http-port", str(PORT)),
                "--open-metrics",
            ),
            namespace=NODE.namespace,
            mark=_MODULE,
            variables=(
                ("KUBECONFIG", str(chart.KUBECONFIG)),
                ("POD_NAME", f"{chart.CONTROLLER}-0"),
                ("POD_NAMESPACE", chart.NAMESPACE),
                ("PYTHONUNBUFFERED", "1"),
            ),
        )

    @property
    def log(self) -> Path:
        """What it logs."""
        return self._service.log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._pid

    def start(self) -> float:
        """Start it, wait until it is ready and return how many seconds that took."""
        began = time.monotonic()
        self._pid = processes.start(self._service)
        self._stopped.clear()
        threading.Thread(target=self._keep, name="controller", daemon=True).start()
        self.wait_until_ready()
        return time.monotonic() - began

    def stop(self) -> float:
        """Ask it to end, and return how many seconds that took."""
        self._stopped.set()
        self._spent += process_seconds(self._pid)
        began = time.monotonic()
        processes.stop_pids([self._pid], STOP_SECONDS)
        return time.monotonic() - began

    def wait_until_ready(self) -> None:
        """Wait until its readiness probe succeeds."""
        wait_until(lambda: _get("/readyz")[0] == http.HTTPStatus.OK, READY_SECONDS, "it is ready")

    def usage(self) -> Usage:
        """Return what it took until now."""
        text = _get("/metrics")[1]
        cpu, rss = self._spent + process_seconds(self._pid), _memory(self._pid, "VmRSS")
        return Usage(
            at=time.monotonic(),
            cpu=cpu,
            rss=rss,
            reconciles=_metric(text, f"{_RECONCILES}_count"),
            reconcile_seconds=_metric(text, f"{_RECONCILES}_sum"),
        )

    def forget_peak(self) -> None:
        """Let the peak of memory begin anew from what is resident now."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    def peak(self) -> float:
        """Return the most memory that was resident since `forget_peak`, MiB."""
        return _memory(self._pid, "VmHWM")

    def _keep(self) -> None:
        while True:
            cpu = process_seconds(self._pid)
            if self._stopped.wait(_POLL_SECONDS):
                return
            if not processes.is_alive(self._pid):
                self.deaths += 1
                self._spent += cpu
                self._pid = processes.start(self._service)


def _get(path: str) -> tuple[int, str]:
    """Return status and body of the controller's own HTTP server; 0 where nobody answers."""
    connection = http.client.HTTPConnection(NODE.address, PORT, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def _metric(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _memory(pid: int, name: str) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) / _KIB_PER_MIB if found else 0.0
