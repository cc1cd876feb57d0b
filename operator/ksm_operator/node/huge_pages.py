"""Processes that live in huge pages: what becomes of them, and the words for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ksm_operator.kernel import (
    KernelError,
    Process,
    SkipReason,
    mergeable_processes,
    merges_everything,
    why_not,
)
from ksm_operator.kernel.huge_pages import Look, read_huge_pages

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from ksm_operator.kernel.huge_pages import Worth

MIB: Final = 1 << 20

AUTO: Final = "auto"
PRESERVE: Final = "preserve"
SPLIT: Final = "split"


def add_argument(command: argparse.ArgumentParser) -> None:
    """Let a command say what it does with huge pages."""
    command.add_argument(
        "--huge-pages",
        choices=(AUTO, PRESERVE, SPLIT),
        default=AUTO,
        help="merging splits huge pages: do it to processes that live in them only if that gives a "
        "good part of that memory back (auto, the default; reads what they and all who merge hold, "
        "one to two seconds of CPU per GiB), never (preserve), or always (split)",
    )


class HugePages:
    """What is to become of the huge pages of processes that are enrolled."""

    def __init__(self, how: str) -> None:
        """Decide by the command's `--huge-pages`."""
        self._how = how
        self._look = Look()
        self._worth: set[Process] = set()
        self._spared: dict[Process, str] = {}

    def consider(self, processes: Iterable[Process]) -> None:
        """Look at these before they are enrolled."""
        if self._how == AUTO:
            for process, worth in worth_splitting(processes, self._look).items():
                if isinstance(worth, KernelError):
                    text = f"whether that pays cannot be told ({worth})"
                elif worth.pays:
                    self._worth.add(process)
                    continue
                else:
                    text = describe(worth)
                self._spared[process] = f"{text}; --huge-pages split enrols it all the same"
        elif self._how == PRESERVE:
            for process in processes:
                huge = lived_in(process)
                if huge:
                    self._spared[process] = f"{_mib(huge)} of it are in huge pages"

    def may_split(self, process: Process) -> bool:
        """Whether ranges with huge pages are marked, where it is enrolled by ranges."""
        return self._how == SPLIT or process in self._worth

    def why_not(self, process: Process) -> str | None:
        """Why it must not be enrolled as a whole, for a person; None if it may."""
        return self._spared.get(process)


def lived_in(process: Process) -> int:
    """Bytes of a process in huge pages if it lives in them, else 0."""
    try:
        return read_huge_pages(process)
    except KernelError:
        return 0


def worth_splitting(processes: Iterable[Process], look: Look) -> dict[Process, Worth | KernelError]:
    """What it would give to enrol those of these that live in huge pages; see `Look.worth_of`."""
    everybody = list(processes)
    if not any(map(lived_in, everybody)):
        return {}
    candidates = filter(_could_be_enrolled, everybody)
    return look.worth_of(candidates, lambda: [one.process for one in mergeable_processes()])


def describe(worth: Worth) -> str:
    """What splitting would give, for a person."""
    error = f" (± {_mib(worth.saved.error)})" if worth.saved.error else ""
    return (
        f"{_mib(worth.huge_bytes)} of it are in huge pages, which merging would split to give "
        f"{_mib(worth.saved.size)}{error} of them back, {100 * worth.share:.0f} %"
    )


def to_dict(worth: Worth | KernelError) -> dict[str, Any]:
    """The same as JSON types."""
    if isinstance(worth, KernelError):
        return {"error": str(worth)}
    return {
        "bytes": worth.huge_bytes,
        "savedBytes": {"bytes": worth.saved.size, "error": worth.saved.error},
        "share": round(worth.share, 3),
        "pays": worth.pays,
    }


def _could_be_enrolled(process: Process) -> bool:
    try:
        return why_not(process) in (None, SkipReason.ALREADY_MERGEABLE) and not merges_everything(
            process
        )
    except KernelError:
        return False


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
