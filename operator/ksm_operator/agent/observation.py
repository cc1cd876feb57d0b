"""What merging would give back on this node, without merging anything: `mode: Observe`.

Memory of the selected containers is read in a thread, within the policy's CPU limit, and again only
when containers have come or gone or much time has passed. Nothing on the node is changed for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.admission import may_join
from ksm_operator.agent.cgroups import living_in
from ksm_operator.agent.duty import Abandoned, Duty
from ksm_operator.agent.huge_pages import AUTO, SPLIT
from ksm_operator.kernel import (
    Estimate,
    KernelError,
    Process,
    SkipReason,
    SysfsError,
    page_size,
    read_status,
    why_not,
)
from ksm_operator.kernel.huge_pages import huge_bytes, judge, lives_in_huge_pages
from ksm_operator.kernel.memory_lock import cpu_seconds, must_not_hang
from ksm_operator.kernel.samples import (
    Sample,
    every_for,
    readable_ranges,
    take_sample,
    zero_content,
)
from ksm_operator.kernel.saving import between, saving, steady, without_huge_pages

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable

    from ksm_operator.agent.consent import Consent
    from ksm_operator.agent.host import Host
    from ksm_operator.agent.wire import NodePolicy

log = logging.getLogger(__name__)

SAMPLE_PAGES: Final = 1 << 15
"""Kept of all processes together, which takes 16 MiB while they are compared."""
MOST_SHARE: Final = 0.5
"""Of one core, however large the policy's limit is: the agent has other work."""
STEADY_SECONDS: Final = 5.0
"""Between the two readings of one look: what changes meanwhile may never merge."""
FREQUENT: Final = 8
"""Times that a content is found by chance to be looked at frame by frame in the second reading."""
LEAST_SECONDS: Final = 30.0
CHANGED_SHARE: Final = 0.05
UNCHANGED_SECONDS: Final = 600.0
UNCHANGED_SHARE: Final = 0.005
"""Of one core, on average: when containers came or went, and when they did not."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One look.

    Attributes:
        saved: what merging would give back.
        read_bytes: private memory of the processes that would merge.
        processes: how many those are.
        about: the containers and the rules that it was made with.
        at: monotonic time when it ended.
        cpu_seconds: what it cost.
    """

    saved: Estimate
    read_bytes: int
    processes: int
    about: object
    at: float
    cpu_seconds: float


def is_due(last: Observed | None, about: object, now: float) -> bool:
    """Whether it is time for another look. Pure."""
    if last is None:
        return True
    if about != last.about:
        return now - last.at >= max(LEAST_SECONDS, last.cpu_seconds / CHANGED_SHARE)
    return now - last.at >= max(UNCHANGED_SECONDS, last.cpu_seconds / UNCHANGED_SHARE)


class Observation:
    """Looks now and then, while the node is told to observe.

    Attributes:
        last: what was found last; None before the first look and when nobody observes.
    """

    def __init__(self, host: Host) -> None:
        """Look at nothing yet."""
        self.last: Observed | None = None
        self._host = host
        self._share = MOST_SHARE
        self._wanted: object = None
        self._thread: threading.Thread | None = None

    @property
    def is_looking(self) -> bool:
        """Whether memory is being read."""
        return self._thread is not None and self._thread.is_alive()

    def end(self) -> None:
        """Nobody observes: end the look that is under way, and forget what was seen."""
        self.last = self._wanted = None

    def go_on(self, paths: Iterable[str], consent: Consent, policy: NodePolicy) -> None:
        """Begin another look if that is due.

        Args:
            paths: cgroups of the containers whose processes would be enrolled.
            consent: whose pods ask for it.
            policy: the node's.
        """
        self._share = min(MOST_SHARE, policy.ksmd.cpu_limit_milli_cpu / 1000)
        if self.is_looking:
            return
        about = (
            frozenset(paths),
            consent.asked,
            consent.shared,
            policy.enrollment,
            policy.ksmd,
        )
        if not is_due(self.last, about, time.monotonic()):
            return
        self._wanted = wanted = object()
        duty = Duty(lambda: self._share, lambda: self._wanted is wanted)
        self._thread = threading.Thread(
            target=self._look, args=(about, consent, policy, duty), name="observe", daemon=True
        )
        self._thread.start()

    def _look(
        self,
        about: tuple[frozenset[str], frozenset[str], object, object],
        consent: Consent,
        policy: NodePolicy,
        duty: Duty,
    ) -> None:
        must_not_hang()
        began = cpu_seconds()
        try:
            processes = [
                process
                for path in about[0]
                if may_join(self._host.hierarchy, path)
                for process in living_in(self._host.hierarchy, path)
                if _may_be_enrolled(process, path, consent)
            ]
            saved, read, count = look(
                processes,
                policy,
                duty,
                by_ranges=self._host.features.method != "Prctl",
                max_page_sharing=self._value("max_page_sharing"),
                use_zero_pages=bool(self._value("use_zero_pages")),
            )
            duty()
        except Abandoned:
            return
        cost = cpu_seconds() - began
        self.last = Observed(saved, read, count, about, time.monotonic(), cost)
        log.info(
            "observed",
            extra={
                "processes": count,
                "readBytes": read,
                "savedBytes": saved.size,
                "errorBytes": saved.error,
                "cpuSeconds": round(cost, 2),
            },
        )

    def _value(self, name: str) -> int | None:
        """What one of ksmd's files holds; None where there is none."""
        try:
            value = getattr(self._host.sysfs.read(), name)
        except SysfsError:
            return None
        return int(value) if value is not None else None


def look(
    processes: Collection[Process],
    policy: NodePolicy,
    pause: Duty,
    *,
    by_ranges: bool = False,
    max_page_sharing: int | None = None,
    use_zero_pages: bool = False,
) -> tuple[Estimate, int, int]:
    """Read what these processes hold, twice, and estimate what merging would give back.

    Args:
        processes: all that would be enrolled.
        policy: what of it concerns merging counts before what the node has now.
        pause: called after each block; what it raises ends the reading.
        by_ranges: processes would be enrolled by ranges, without those with huge pages.
        max_page_sharing: the node's.
        use_zero_pages: the node's.

    Returns:
        The estimate, the private memory of those that would merge, and how many they are.
    """
    counted: Counter[int] = Counter()
    before, every, _ = _read(processes, pause, counted=counted)
    frequent = Counter(
        {one: times for one, times in counted.items() if times >= FREQUENT}
        | {zero_content(page_size()): counted[zero_content(page_size())]}
    )
    ends = time.monotonic() + STEADY_SECONDS
    while (left := ends - time.monotonic()) > 0:
        pause()
        time.sleep(min(left, 0.1))
    now, every, sizes = _read(list(before), pause, every, frequent=frequent)
    how = policy.enrollment.huge_pages
    huge = {one: size for one, (_, size) in sizes.items() if size and one in now}
    pays: set[Process] = set()
    if how == AUTO and huge:
        worth = judge(now.values(), huge, every, page_size())
        pays = {one for one, told in worth.items() if told.pays}
    if how != SPLIT:
        for process in huge.keys() - pays:
            if by_ranges:
                now[process] = without_huge_pages(now[process])
            else:
                del now[process]
    ksmd = policy.ksmd
    sharing = ksmd.max_page_sharing or max_page_sharing
    zero = use_zero_pages if ksmd.use_zero_pages is None else ksmd.use_zero_pages
    most, least = (
        saving(
            samples,
            every,
            page_size(),
            by_frame=frequent,
            max_page_sharing=sharing,
            use_zero_pages=zero,
        )
        for samples in (
            now.values(),
            [steady(before[one], now[one], frequent) for one in now],
        )
    )
    read = sum(size for one, (size, _) in sizes.items() if one in now)
    return between(least, most), read, len(now)


def _read(
    processes: Collection[Process],
    pause: Duty,
    every: int = 0,
    *,
    frequent: Container[int] = (),
    counted: Counter[int] | None = None,
) -> tuple[dict[Process, Sample], int, dict[Process, tuple[int, int]]]:
    """A sample of each, and how much it holds, in all and in huge pages if it lives in them."""
    every = every or every_for(
        (vma for _, vmas in readable_ranges(processes) for vma in vmas), SAMPLE_PAGES
    )
    samples: dict[Process, Sample] = {}
    sizes: dict[Process, tuple[int, int]] = {}
    for process, vmas in readable_ranges(processes):
        try:
            samples[process] = take_sample(
                process, vmas, every, by_frame=frequent, counted=counted, pause=pause
            )
        except KernelError:
            continue
        huge = huge_bytes(vmas) if lives_in_huge_pages(vmas) else 0
        sizes[process] = (sum(vma.anonymous_bytes for vma in vmas), huge)
    return samples, every, sizes


def _may_be_enrolled(process: Process, path: str, consent: Consent) -> bool:
    try:
        if consent.why_not(path, read_status(process.pid)) is not None:
            return False
        return why_not(process, asked=consent.asks(path)) in (None, SkipReason.ALREADY_MERGEABLE)
    except KernelError:
        return False
