"""Processes that live in huge pages: what becomes of them, and the words for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ksm_operator.kernel import (
    KernelError,
    Process,
    SkipReason,
    mergeable_processes,
    merges_everything,
    read_vmas,
    why_not,
)
from ksm_operator.kernel.huge_pages import huge_bytes, lives_in_huge_pages, worth_of

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
        help="merging splits huge pages: enrol processes that live in them only if that gives a "
        "good part of that memory back (auto, the default; reads the memory of all that is "
        "mergeable, a second of CPU per GiB), never (preserve), or always (split)",
    )


def worth_splitting(processes: Iterable[Process]) -> dict[Process, Worth]:
    """What it would give to enrol those of these that live in huge pages.

    Raises:
        KernelError: no right to read the memory of a process.
    """
    candidates = list(filter(_could_be_enrolled, processes))
    return worth_of(candidates, lambda: [one.process for one in mergeable_processes()])


def preserved(processes: Iterable[Process]) -> dict[Process, str]:
    """Those that live in huge pages, with a sentence about each."""
    found = {}
    for process in filter(_could_be_enrolled, processes):
        try:
            vmas = read_vmas(process)
        except KernelError:
            continue
        if lives_in_huge_pages(vmas):
            found[process] = f"left alone: {_mib(huge_bytes(vmas))} of it are in huge pages"
    return found


def left_alone(processes: Iterable[Process], how: str) -> dict[Process, str]:
    """Those that are not to be enrolled because of their huge pages, with a sentence about each.

    Args:
        processes: who is to be enrolled.
        how: the command's `--huge-pages`.

    Raises:
        KernelError: no right to read the memory of a process.
    """
    if how == SPLIT:
        return {}
    if how == PRESERVE:
        return preserved(processes)
    return {
        process: f"left alone: {describe(worth)}; --huge-pages split enrols it all the same"
        for process, worth in worth_splitting(processes).items()
        if not worth.pays
    }


def describe(worth: Worth) -> str:
    """What splitting would give, for a person."""
    error = f" (± {_mib(worth.saved.error)})" if worth.saved.error else ""
    return (
        f"{_mib(worth.huge_bytes)} of it are in huge pages, which merging would split to give "
        f"{_mib(worth.saved.size)}{error} of them back, {100 * worth.share:.0f} %"
    )


def to_dict(worth: Worth) -> dict[str, Any]:
    """The same as JSON types."""
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
