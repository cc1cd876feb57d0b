"""Switching merging on in a process that is running."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from ksm_operator.kernel.errors import (
    KernelError,
    Postponed,
    ProcessGone,
    Refused,
    RemoteCallFailed,
    Unsupported,
)
from ksm_operator.kernel.exclusions import SkipReason, never, range_reason, why_not
from ksm_operator.kernel.madvise import Range, advise, choose, own_ranges, without
from ksm_operator.kernel.mergeable import marks_everything
from ksm_operator.kernel.procfs import PROC, Process, check_alive, read_ksm_stat
from ksm_operator.kernel.remote import Syscall
from ksm_operator.kernel.smaps import read_vmas

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ksm_operator.kernel.helper_messages import Request
    from ksm_operator.kernel.probe import KernelFeatures, Method
    from ksm_operator.kernel.procfs import KsmStat
    from ksm_operator.kernel.remote import Visit
    from ksm_operator.kernel.smaps import Vma
    from ksm_operator.kernel.tracer import RemoteCalls

PR_SET_MEMORY_MERGE: Final = 67
PR_GET_MEMORY_MERGE: Final = 68

MANY_RANGES: Final = 16_384
"""A quarter of vm.max_map_count's default, 65,530."""

LARGE_RESERVATION_BYTES: Final = 64 << 30
"""Address space that ksmd, where it looks at each address, walks through in about a second."""


class ManyRemoteCalls(Protocol):
    """Whatever can make many processes run system calls with few messages; see `Helper`."""

    def call_many(self, requests: Sequence[Request]) -> list[Visit | KernelError]:
        """Let each process make its calls; see `Helper.call_many`."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What an enrolment is about to do: to be put on record before, so that it can be undone.

    Attributes:
        process: who.
        method: `Prctl` for the whole process, `Madvise` for `ranges`.
        ranges: what will be marked by `Madvise`.
        own: what the program had marked itself; `Prctl` covers it, and `restore_own` brings it
            back after a release.
    """

    process: Process
    method: Method
    ranges: tuple[Range, ...] = ()
    own: tuple[Range, ...] = ()


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
        ranges: what of the intent was marked, exactly; what `give_back` undoes.
    """

    process: Process
    ranges: tuple[Range, ...]


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


def get_merge() -> Syscall:
    """The call that asks whether it is on; it says nothing of madvise."""
    return Syscall("prctl", (PR_GET_MEMORY_MERGE, 0, 0, 0, 0))


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
    *,
    ours: Iterable[Range] = (),
    split_huge_pages: bool = False,
    proc: Path = PROC,
) -> Intent | AlreadyMergeable:
    """What `carry_out` shall do to enrol this process, or to follow its growth. Changes nothing.

    Reads smaps once, so its cost grows with the resident memory of the process.

    Args:
        process: who.
        features: what the kernel can.
        ours: ranges that were marked by us before.
        split_huge_pages: mark ranges with huge pages too.
        proc: the proc file system.

    Raises:
        ProcessGone: it exited.
        Postponed: nothing of it is populated that could be marked; it may be later.
        Refused: it is excluded; the reason is a `SkipReason`.
        KernelError: no right to look.
    """
    reason = never(process, proc=proc)
    if reason is not None:
        raise Refused(process.pid, reason)
    if read_ksm_stat(process, proc=proc).merge_any:
        return AlreadyMergeable(process, "Prctl")
    vmas = read_vmas(process, proc=proc)
    if marks_everything(vmas):  # ksm_stat says it since 6.14 only
        return AlreadyMergeable(process, "Prctl")
    reason = range_reason(vmas)
    if reason is not None and reason is not SkipReason.ALREADY_MERGEABLE:
        raise Refused(process.pid, reason)
    if method_for(features, vmas) == "Prctl":
        return Intent(process, "Prctl", own=without(own_ranges(vmas), ours))
    ranges = choose(vmas, ours, split_huge_pages=split_huge_pages)
    if not ranges:
        raise Postponed(process.pid, "NothingToMark")
    return Intent(process, "Madvise", ranges)


def carry_out(
    intent: Intent, tracer: RemoteCalls, *, proc: Path = PROC
) -> Enrolled | Advised | AlreadyMergeable:
    """Do what was prepared and put on record, and read back that it is so.

    Raises:
        As `enrol`.
    """
    process = intent.process
    if intent.method == "Madvise":
        return Advised(process, advise(process, tracer, intent.ranges, proc=proc))
    check_alive(process, proc=proc)
    unknown = without(own_ranges(read_vmas(process, proc=proc)), intent.own)
    if unknown:
        # The program marked more since: not covered by the record, so not to be covered over.
        raise Postponed(process.pid, "MarksChanged")
    before = read_ksm_stat(process, proc=proc)
    if before.merge_any:
        return AlreadyMergeable(process, "Prctl")
    question = _switch_on(process, before)
    return _conclude(question, tracer.call(process, question.calls), proc)


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
    question = _question(process, proc)
    if isinstance(question, AlreadyMergeable):
        return question
    return _conclude(question, tracer.call(process, question.calls), proc)


def enrol_many(
    processes: Sequence[Process], tracer: ManyRemoteCalls, *, proc: Path = PROC
) -> list[Enrolled | AlreadyMergeable | KernelError]:
    """As `enrol` for each of them, with as few messages to the helper as possible.

    Returns:
        One result each, in the same order; what `enrol` would raise stands in its place.

    Raises:
        Unsupported: the helper cannot work on this machine.
    """
    results: dict[Process, Enrolled | AlreadyMergeable | KernelError] = {}
    questions: list[_Question] = []
    for process in processes:
        try:
            question = _question(process, proc)
        except KernelError as error:
            results[process] = error
        else:
            if isinstance(question, AlreadyMergeable):
                results[process] = question
            else:
                questions.append(question)
    answers = tracer.call_many([(question.process, question.calls) for question in questions])
    for question, answer in zip(questions, answers, strict=True):
        try:
            results[question.process] = (
                answer if isinstance(answer, KernelError) else _conclude(question, answer, proc)
            )
        except KernelError as error:
            results[question.process] = error
    return [results[process] for process in processes]


@dataclass(frozen=True, slots=True)
class _Question:
    """The calls that enrol a process, or tell why not.

    Attributes:
        process: who.
        calls: to be made in one stop.
        marked: some of its ranges are mergeable, and this kernel does not tell by whom.
    """

    process: Process
    calls: tuple[Syscall, ...]
    marked: bool = False


def _question(process: Process, proc: Path) -> _Question | AlreadyMergeable:
    check_alive(process, proc=proc)
    before = read_ksm_stat(process, proc=proc)
    if before.merge_any:
        return AlreadyMergeable(process, "Prctl")
    reason = why_not(process, proc=proc)
    if reason is SkipReason.ALREADY_MERGEABLE:
        by_prctl = read_ksm_stat(process, proc=proc).merge_any
        if by_prctl is None:
            return _Question(process, (get_merge(),), marked=True)
        return AlreadyMergeable(process, "Prctl" if by_prctl else "Madvise")
    if reason is not None:
        raise Refused(process.pid, reason)
    return _switch_on(process, before)


def _switch_on(process: Process, before: KsmStat) -> _Question:
    if before.merge_any is not None:
        return _Question(process, (set_merge(on=True),))
    # Before 6.14 only the process itself can ask.
    return _Question(process, (get_merge(), set_merge(on=True), get_merge()))


def _conclude(question: _Question, visit: Visit, proc: Path) -> Enrolled | AlreadyMergeable:
    process = question.process
    if question.marked:
        return AlreadyMergeable(process, "Prctl" if visit.results[0] == 1 else "Madvise")
    if len(question.calls) == 1:
        check_answer(process, "prctl(PR_SET_MEMORY_MERGE, 1)", visit.results[0])
        shown = read_ksm_stat(process, proc=proc).merge_any
        if shown is None:  # it was there before the call: the process is on its way out
            raise ProcessGone(process.pid)
    else:
        asked, answer, now = visit.results
        if asked == 1:
            return AlreadyMergeable(process, "Prctl")
        check_answer(process, "prctl(PR_SET_MEMORY_MERGE, 1)", answer)
        shown = now == 1
    if not shown:
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
        raise Unsupported("this kernel does not know PR_SET_MEMORY_MERGE: Linux 6.4 with KSM is")
    raise RemoteCallFailed(process.pid, call, -answer)
