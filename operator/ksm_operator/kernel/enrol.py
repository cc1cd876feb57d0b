"""Switching merging on in a process that is running."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

from ksm_operator.kernel.errors import (
    KernelError,
    Postponed,
    ProcessGone,
    Refused,
    RemoteCallFailed,
    Unsupported,
)
from ksm_operator.kernel.exclusions import SkipReason, never, range_reason, why_not
from ksm_operator.kernel.ksm_stat import read_ksm_stat
from ksm_operator.kernel.madvise import choose, mark
from ksm_operator.kernel.marks import Marks, own_ranges, read_program
from ksm_operator.kernel.mergeable import marks_everything, merges_everything
from ksm_operator.kernel.procfs import PROC, Process, check_alive
from ksm_operator.kernel.ranges import without
from ksm_operator.kernel.remote import Syscall
from ksm_operator.kernel.smaps import read_vmas
from ksm_operator.kernel.tracer import RemoteCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ksm_operator.kernel.helper_messages import Request
    from ksm_operator.kernel.ksm_stat import KsmStat
    from ksm_operator.kernel.probe import KernelFeatures, Method
    from ksm_operator.kernel.remote import Visit
    from ksm_operator.kernel.smaps import Vma

Result = TypeVar("Result")

PR_SET_MEMORY_MERGE: Final = 67

MANY_RANGES: Final = 16_384
"""A quarter of vm.max_map_count's default, 65,530."""

NOTHING_TO_MARK: Final = "NothingToMark"
"""Reason of a `Postponed`: all that can merge is marked already, or nothing of it is there yet."""

LARGE_RESERVATION_BYTES: Final = 64 << 30
"""Address space that ksmd, where it looks at each address, walks through in about a second."""


class ManyRemoteCalls(RemoteCalls, Protocol):
    """Whatever can make many processes run system calls with few messages; see `Helper`."""

    def call_many(self, requests: Sequence[Request]) -> list[Visit | KernelError]:
        """Let each process make its calls; see `Helper.call_many`."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What an enrolment is about to do.

    Attributes:
        process: who.
        marks: to be put on record before it is done, so that it can be undone.
    """

    process: Process
    marks: Marks


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Merging was off in this process and is now on, by us.

    Attributes:
        process: who.
        visit: which thread made the call, and how long it stood still.
    """

    process: Process
    visit: Visit


@dataclass(frozen=True, slots=True)
class Advised:
    """Ranges of this process are now mergeable, by us.

    Attributes:
        process: who.
        marks: what was marked, exactly; to be put on record in place of the intent's.
    """

    process: Process
    marks: Marks


@dataclass(frozen=True, slots=True)
class AlreadyMergeable:
    """Merging was on before we came; nothing was changed.

    Attributes:
        process: who.
        by: `Prctl` (the process, an ancestor, or an earlier enrolment of ours) or `Madvise`.
    """

    process: Process
    by: Literal["Prctl", "Madvise"]


def set_merge(*, on: bool, seconds: float = 5.0) -> Syscall:
    """The call that switches merging on or off for the whole process (Linux 6.4)."""
    return Syscall("prctl", (PR_SET_MEMORY_MERGE, int(on), 0, 0, 0), seconds)


def method_for(features: KernelFeatures, vmas: Sequence[Vma]) -> Method:
    """How a process of these ranges is best enrolled on this kernel.

    `Prctl`, because fork's children inherit it and new ranges need no visit, except where the
    kernel lacks it or it would hurt: where new ranges stay apart and the process has so many that
    it may reach vm.max_map_count, and where ksmd would look at every address of a large
    reservation.
    """
    if features.method != "Prctl":
        return "Madvise"
    if not features.new_ranges_join and len(vmas) > MANY_RANGES:
        return "Madvise"
    # A range that was never touched has no anon_vma, and ksmd passes it over.
    reserved = sum(vma.size - vma.anonymous_bytes for vma in vmas if vma.anonymous_bytes)
    if not features.scan_skips_holes and reserved > LARGE_RESERVATION_BYTES:
        return "Madvise"
    return "Prctl"


def prepare(
    process: Process,
    features: KernelFeatures,
    before: Marks | None = None,
    *,
    split_huge_pages: bool = False,
    asked: bool = False,
    proc: Path = PROC,
) -> Intent | AlreadyMergeable:
    """What `carry_out` shall do to enrol this process, or to follow its growth. Changes nothing.

    Reads smaps once, so its cost grows with the resident memory of the process.

    Args:
        process: who.
        features: what the kernel can.
        before: what is on record of it; that of another program is passed over.
        split_huge_pages: mark ranges with huge pages too.
        asked: it is not left alone for a reason that holds by default only.
        proc: the proc file system.

    Raises:
        ProcessGone: it exited.
        Postponed: nothing of it is populated that could be marked; it may be later.
        Refused: it is excluded; the reason is a `SkipReason`.
        KernelError: no right to look.
    """
    reason = never(process, asked=asked, proc=proc)
    if reason is not None:
        raise Refused(process.pid, reason)
    if read_ksm_stat(process, proc=proc).merge_any:
        return AlreadyMergeable(process, "Prctl")
    program = read_program(process, proc=proc)
    vmas = read_vmas(process, proc=proc)
    if marks_everything(vmas):  # ksm_stat says it since 6.14 only
        return AlreadyMergeable(process, "Prctl")
    reason = range_reason(vmas)
    if reason is not None and reason is not SkipReason.ALREADY_MERGEABLE:
        raise Refused(process.pid, reason)
    if before is None or before.program != program or before.method != "Madvise":
        if method_for(features, vmas) == "Prctl":
            return Intent(process, Marks("Prctl", program, own_ranges(vmas)))
        before = Marks("Madvise", program)
    # One that was begun by ranges goes on so: the prctl would cover what is on record as ours.
    known = before.marked(vmas)
    ranges = choose(vmas, known.ranges, split_huge_pages=split_huge_pages)
    if not ranges:
        raise Postponed(process.pid, NOTHING_TO_MARK)
    return Intent(process, replace(known, intended=ranges))


def carry_out(
    intent: Intent, tracer: RemoteCalls, *, proc: Path = PROC
) -> Enrolled | Advised | AlreadyMergeable:
    """Do what was prepared and put on record, and read back that it is so.

    Raises:
        As `enrol`.
    """
    process, marks = intent.process, intent.marks
    already = _check_intent(intent, proc)
    if already is not None:
        return already
    if marks.method == "Prctl":
        return _finish(intent, tracer.call(process, [set_merge(on=True)]), proc)
    mark(process, tracer, marks.intended)
    _check_program(intent, proc)
    return Advised(process, marks.marked(read_vmas(process, proc=proc)))


def carry_out_many(
    intents: Sequence[Intent], tracer: ManyRemoteCalls, *, proc: Path = PROC
) -> list[Enrolled | Advised | AlreadyMergeable | KernelError]:
    """As `carry_out` for each of them, with as few messages to the helper as possible.

    Returns:
        One result each, in the same order; what `carry_out` would raise stands in its place.
    """
    as_a_whole = [one for one in intents if one.marks.method == "Prctl"]
    checked = _each(as_a_whole, lambda one: _check_intent(one, proc))
    results: dict[Process, Enrolled | Advised | AlreadyMergeable | KernelError]
    results = {process: found for process, found in checked.items() if found is not None}
    asked = [one for one in as_a_whole if one.process not in results]
    answers = dict(zip((one.process for one in asked), _ask(asked, tracer), strict=True))
    results |= _each(asked, lambda one: _finish(one, answers[one.process], proc))
    by_ranges = [one for one in intents if one.marks.method == "Madvise"]
    results |= _each(by_ranges, lambda one: carry_out(one, tracer, proc=proc))
    return [results[intent.process] for intent in intents]


def _each(
    intents: Iterable[Intent], act: Callable[[Intent], Result]
) -> dict[Process, Result | KernelError]:
    results: dict[Process, Result | KernelError] = {}
    for intent in intents:
        try:
            results[intent.process] = act(intent)
        except KernelError as error:
            results[intent.process] = error
    return results


def _ask(intents: Sequence[Intent], tracer: ManyRemoteCalls) -> list[Visit | KernelError]:
    try:
        return tracer.call_many([(one.process, [set_merge(on=True)]) for one in intents])
    except KernelError as error:
        return [error] * len(intents)


def _finish(intent: Intent, answer: Visit | KernelError, proc: Path) -> Enrolled:
    if isinstance(answer, KernelError):
        raise answer
    # It may have become a program meanwhile that nobody has judged.
    _check_program(intent, proc)
    return _conclude(intent.process, answer, proc)


def _check_intent(intent: Intent, proc: Path) -> AlreadyMergeable | None:
    """None if what was prepared still fits the process.

    Raises:
        ProcessGone: it exited.
        Postponed: it has changed since.
    """
    _check_program(intent, proc)
    if intent.marks.method == "Madvise":
        return None
    process = intent.process
    before = read_ksm_stat(process, proc=proc)
    if before.merge_any:
        return AlreadyMergeable(process, "Prctl")
    # Where the kernel says that not one range is marked (6.14), they need not be read again.
    if before.mergeable is not False and without(
        own_ranges(read_vmas(process, proc=proc)), intent.marks.own
    ):
        # The program marked more since: not covered by the record, so not to be covered over.
        raise Postponed(process.pid, "MarksChanged")
    return None


def _check_program(intent: Intent, proc: Path) -> None:
    if read_program(intent.process, proc=proc) != intent.marks.program:
        raise Postponed(intent.process.pid, "Exec", "it became another program")


def repair_after_exec(process: Process, tracer: RemoteCalls) -> None:
    """Make ksmd scan a program that has inherited merging across exec; see `needs_repair`.

    Raises:
        ProcessGone: it exited.
        Postponed: not at this moment.
        RemoteCallFailed: the kernel refused.
    """
    calls = (set_merge(on=False), set_merge(on=True))
    for answer in tracer.call(process, calls).results:
        check_answer(process, "prctl(PR_SET_MEMORY_MERGE)", answer)


def needs_repair(features: KernelFeatures, stat: KsmStat) -> bool:
    """True for a process that merges as a whole and that ksmd may not know of. Pure.

    From 6.7 to 6.9 exec keeps the flag, ksmd is not told of the new program, and a second call is
    passed over as done already: off and on again tells it. Ksmd's records of one that it knows are
    lost by that, and its merged pages copied, so only one that has none is meant.
    """
    return features.exec_inherits and features.exec_merges is False and stat.rmap_items == 0


def enrol(
    process: Process, tracer: RemoteCalls, *, proc: Path = PROC
) -> Enrolled | AlreadyMergeable:
    """Make ksmd merge all of this process's memory, and read back that it will.

    Children made after this inherit it. Nothing else of the process changes. One that has marked
    ranges itself is left alone; `prepare` and `carry_out` enrol it too, with its marks on record.

    Args:
        process: who.
        tracer: makes the process run the call.
        proc: the proc file system.

    Raises:
        ProcessGone: it exited.
        Postponed: no thread of it can make the call at this moment; try again.
        Refused: it is excluded; the reason is a `SkipReason`.
        Unsupported: the kernel is older than 6.4 or has no KSM.
        RemoteCallFailed: the kernel refused (out of memory).
    """
    already = _already(process, proc)
    if already is not None:
        return already
    return _conclude(process, tracer.call(process, [set_merge(on=True)]), proc)


def _already(process: Process, proc: Path) -> AlreadyMergeable | None:
    """None for a process that may be enrolled; raises what `enrol` does."""
    check_alive(process, proc=proc)
    reason = why_not(process, proc=proc)
    if reason is SkipReason.ALREADY_MERGEABLE:
        everything = merges_everything(process, proc=proc)
        return AlreadyMergeable(process, "Prctl" if everything else "Madvise")
    if reason is not None:
        raise Refused(process.pid, reason)
    return None


def _conclude(process: Process, visit: Visit, proc: Path) -> Enrolled:
    check_answer(process, "prctl(PR_SET_MEMORY_MERGE, 1)", visit.results[0])
    if not merges_everything(process, proc=proc):
        if not read_vmas(process, proc=proc):  # its memory is gone: it is on its way out
            raise ProcessGone(process.pid)
        raise KernelError(
            f"process {process.pid} took the call but merging is off: did it exec meanwhile?"
        )
    return Enrolled(process, visit)


def check_answer(process: Process, call: str, answer: int) -> None:
    """Turn the kernel's answer into an error of ours.

    Raises:
        Unsupported: the kernel does not know the call.
        RemoteCallFailed: it refused.
    """
    if answer >= 0:
        return
    if answer == -errno.EINVAL and call.startswith("prctl"):
        raise Unsupported("this kernel does not know PR_SET_MEMORY_MERGE (Linux 6.4, with KSM)")
    raise RemoteCallFailed(process.pid, call, -answer)
