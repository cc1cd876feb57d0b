"""What `ksm-node` has marked, kept under /run so that a later call can undo it exactly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.kernel import (
    KernelError,
    Marks,
    Process,
    boot_id,
    is_alive,
    read_program,
    read_vmas,
)
from ksm_operator.kernel.files import replace_file
from ksm_operator.kernel.marks import inherited, own_ranges
from ksm_operator.kernel.procfs import pids, read_stat
from ksm_operator.kernel.ranges import common

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

VERSION: Final = 1


class Record:
    """By process, for those that were enrolled by ranges or had marks of their own."""

    def __init__(self, path: Path) -> None:
        """Read it; a reboot has emptied it.

        Raises:
            KernelError: it cannot be read or understood.
        """
        self._path = path
        self._boot = boot_id()
        self._marks: dict[Process, Marks] = {}
        try:
            data = json.loads(path.read_bytes())
            if data["bootID"] == self._boot:
                self._marks = _parse(data)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KernelError(
                f"{path} cannot be understood ({error!r}): it says which ranges of which processes "
                "an earlier ksm-node marked. Run the version that wrote it, or reboot"
            ) from error

    def get(self, process: Process) -> Marks | None:
        """What is known of a process, or of the one that it was forked from.

        Raises:
            ProcessGone: it exited.
            KernelError: no right to look.
        """
        marks = self._marks.get(process)
        if marks is not None or not self._marks:
            return marks
        marks = inherited(process, read_program(process), self._marks)
        if marks is None or marks.method == "Prctl":
            return marks
        return marks if common(own_ranges(read_vmas(process)), marks.ranges) else None

    def adopt(self, processes: Iterable[Process]) -> None:
        """Write down what they have of those that they were forked from, before these go.

        Raises:
            KernelError: it cannot be written.
        """
        for process in processes:
            try:
                marks = self.get(process)
            except KernelError:
                continue
            if marks is not None:
                self.put(process, marks)

    def put(self, process: Process, marks: Marks | None) -> None:
        """Write it down, before what it says is done; None when nothing of it is left.

        Raises:
            KernelError: it cannot be written.
        """
        before = self._marks.pop(process, None)
        if marks is not None and not marks.is_plain:
            self._marks[process] = marks
        if self._marks.get(process) != before:
            self._save()

    def _save(self) -> None:
        # Of one that has ended there may be children.
        running = _running_programs()
        self._marks = {
            one: marks
            for one, marks in self._marks.items()
            if is_alive(one) or marks.program in running
        }
        data = {
            "version": VERSION,
            "bootID": self._boot,
            "processes": [
                [one.pid, one.start_time, *marks.to_list()] for one, marks in self._marks.items()
            ],
        }
        try:
            replace_file(self._path, json.dumps(data, separators=(",", ":")).encode())
        except OSError as error:
            raise KernelError(
                f"{self._path} cannot be written ({error.strerror}): nothing is changed without a "
                "record of it"
            ) from error


def _parse(data: Any) -> dict[Process, Marks]:
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']} is not {VERSION}")
    return {
        Process(int(pid), int(started)): Marks.from_list(marks)
        for pid, started, *marks in data["processes"]
    }


def _running_programs() -> set[int]:
    found = set()
    for pid in pids():
        try:
            found.add(read_stat(pid).start_stack)
        except KernelError:
            continue
    return found
