"""Starts controllers for tests, by forking: a new Python needs seconds to load what one needs.

A program of its own. It reads orders from standard input, one JSON object a line, and answers each
with one: `{"argv": [...], "environment": {...}, "log": PATH, "folder": PATH}` starts
`ksm-controller` and answers `{"pid": N}`; `{"poll": N}` answers `{"code": N}`, null while it runs.

What a child does differently from `ksm-controller` is what only a test can ask of it:

- `FOLDER/clock`: seconds by which its wall clock is wrong, read whenever it looks at the clock.
- `FOLDER/hesitate`: while it is there, writes to paths that end with what it says wait just before
  they are sent, after all was asked and decided; `FOLDER/hesitates` appears when there is one.
- `"silence"` in the order: after how many seconds without a word a watch is given up.
"""

import ctypes
import datetime as dt
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.controller import __main__ as command
from ksm_operator.controller import cluster

if TYPE_CHECKING:
    from types import ModuleType

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)


def main() -> None:
    """Obey until nobody gives orders any more."""
    for line in sys.stdin:
        order = json.loads(line)
        answer = _poll(order["poll"]) if "poll" in order else {"pid": _start(order)}
        print(json.dumps(answer), flush=True)


def _poll(pid: int) -> dict[str, int | None]:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return {"code": os.waitstatus_to_exitcode(status) if ended else None}


def _start(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _become_controller(order)
        except SystemExit as end:
            if isinstance(end.code, int):
                os._exit(end.code)
            os.write(2, f"{end.code}\n".encode())
        except BaseException:  # noqa: BLE001 - its end is the child's, not the nursery's
            sys.excepthook(*sys.exc_info())
        os._exit(1)
    return pid


def _become_controller(order: dict[str, Any]) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(number, target)
    os.environ.clear()
    os.environ.update(order["environment"])
    _mislead(Path(order["folder"]) / "clock")
    _make_hesitant(Path(order["folder"]))
    if order["silence"]:
        assert hasattr(cluster, "_SILENCE_SECONDS"), "it is called otherwise now"
        cluster._SILENCE_SECONDS = order["silence"]  # type: ignore[misc]
    sys.argv = ["ksm-controller", *order["argv"]]
    command.main()


def _mislead(file: Path) -> None:
    """Let the clock be wrong by what a file says."""
    right = time.time

    def wrong() -> float:
        try:
            return right() + float(file.read_text())
        except FileNotFoundError:
            return right()

    class Datetime(dt.datetime):
        """As the real one, by that clock."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> "Datetime":
            return cls.fromtimestamp(wrong(), tz)

    time.time = wrong
    for name, module in sys.modules.items():
        if name.startswith("ksm_operator.controller.") and _uses_datetime(module):
            module.datetime = Datetime  # type: ignore[attr-defined] # asked for just before


def _uses_datetime(module: "ModuleType") -> bool:
    return getattr(module, "datetime", None) is dt.datetime


def _make_hesitant(folder: Path) -> None:
    """Let writes wait just before they are sent, where a file says so."""
    send = cluster.Cluster._request
    file = folder / "hesitate"

    def waits(method: str, path: str) -> bool:
        try:
            return method != "GET" and path.endswith(file.read_text())
        except FileNotFoundError:
            return False

    def hesitate(self: cluster.Cluster, method: str, path: str, **rest: Any) -> dict[str, Any]:
        while waits(method, path):
            (folder / "hesitates").touch()
            time.sleep(0.01)
        return send(self, method, path, **rest)

    cluster.Cluster._request = hesitate  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
