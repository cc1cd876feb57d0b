"""Enrols and releases programs in turn while they work, and judges what they say at their end."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernel.population.kinds import STOP, Kind
from ksm_operator.agent.attention import ENROL_DELAYS
from ksm_operator.agent.releasing import MOMENT_PAUSE
from ksm_operator.kernel import (
    AlreadyMergeable,
    Helper,
    KernelError,
    Postponed,
    Process,
    ProcessGone,
    Syscall,
    Visit,
    enrol,
    find_process,
    probe,
    release,
)
from support import kernel

ENROL_SECONDS = 10.0
RELEASE_SECONDS = 60.0
END_SECONDS = 120.0
"""A busy machine gets its time: that a program ends is judged, not when."""

LEAST_SHARE = 0.99
TURN_SECONDS = 0.002


class Recorder:
    """The shipped helper, whose latest visit is remembered."""

    def __init__(self, helper: Helper) -> None:
        self._helper = helper
        self.visit: Visit | None = None

    def call(self, process: Process, calls: Sequence[Syscall]) -> Visit:
        """See `Helper.call`."""
        self.visit = self._helper.call(process, calls)
        return self.visit


@dataclass
class Tally:
    """What was seen of one kind.

    Attributes:
        counted: injections that changed the state where they had to be caught.
        enrolled: seconds from the first try to the end, of each enrolment.
        released: the same of each release.
        late: those that took longer than they may.
        caught: calls that threads were caught in.
        safeguards: what they would have fallen back on.
        postponed: reasons of tries that did not come through.
        ended: programs that were judged.
        deviations: what differed from a world without us.
    """

    counted: int = 0
    enrolled: list[float] = field(default_factory=list)
    released: list[float] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    caught: Counter[str] = field(default_factory=Counter)
    safeguards: Counter[str] = field(default_factory=Counter)
    postponed: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    deviations: list[str] = field(default_factory=list)

    def is_met(self) -> bool:
        """As much as is promised was done in time."""
        tried = len(self.enrolled) + len(self.released) + len(self.late)
        return len(self.late) <= (1 - LEAST_SHARE) * tried


Start = Callable[[Kind, list[str], Path], "Member"]
"""Start a program of this kind and command, whose output goes to this file."""


class Member:
    """One running program."""

    def __init__(
        self, kind: Kind, command: list[str], popen: "subprocess.Popen[bytes]", output: Path
    ) -> None:
        self.kind = kind
        self.command = command
        self.popen = popen
        self.output = output

    def pid(self) -> int | None:
        """Process id of the program; None while it is not known."""
        return self.popen.pid

    def targets(self) -> Iterator[Process]:
        """The program, and its descendants if they are targets too."""
        pid = self.pid()
        if pid is None:
            return
        for each in [pid, *(_descendants(pid) if self.kind.has_children else ())]:
            with contextlib.suppress(KernelError):
                yield find_process(each)

    def verdict(self) -> str | None:
        """What deviated; to be asked once it has ended."""
        lines = self.output.read_text(errors="replace").splitlines()
        self.output.unlink()
        return self.kind.judge(tuple(self.command), lines, self.popen.returncode)


def start_here(kind: Kind, command: list[str], output: Path) -> Member:
    """Start a program as a child of ours."""
    with output.open("wb") as file:
        popen = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    return Member(kind, command, popen, output)


def _descendants(pid: int) -> Iterator[int]:
    """From /proc/PID/task/TID/children, as far down as there are any."""
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for word in file.read_text().split():
                yield int(word)
                yield from _descendants(int(word))


@dataclass
class Injection:
    """One change of state that is under way.

    Attributes:
        member: whose.
        process: which of its processes.
        on: to be enrolled, or released.
        started: when it was first tried, on the monotonic clock.
        due: when it is tried next.
        tries: how often it was.
        reasons: why it did not come through.
    """

    member: Member
    process: Process
    on: bool
    started: float
    due: float
    tries: int = 0
    reasons: list[str] = field(default_factory=list)

    def postpone(self, reason: str) -> None:
        """Try again, with the pauses of the agent."""
        self.reasons.append(reason)
        self.tries += 1
        enrol_pause = ENROL_DELAYS[min(self.tries, len(ENROL_DELAYS) - 1)]
        self.due = time.monotonic() + (enrol_pause if self.on else MOMENT_PAUSE)

    def is_late(self) -> bool:
        """It took longer than it may."""
        limit = ENROL_SECONDS if self.on else RELEASE_SECONDS
        return time.monotonic() - self.started > limit


class Population:
    """Programs of several kinds at once, each replaced when it ends."""

    def __init__(
        self, kinds: Sequence[Kind], folder: Path, helper: Helper, *, start: Start = start_here
    ) -> None:
        self.tallies = {kind.name: Tally() for kind in kinds}
        self._kinds = kinds
        self._recorder = Recorder(helper)
        self._keeps_flags = probe().unmerge_keeps_flags is True
        self._start = start
        self._folder = folder
        self._stop = folder / "stop"
        self._started = Counter[str]()
        self._members: dict[str, Member] = {}
        self._injections: dict[str, Injection] = {}

    def run(self, share: int) -> None:
        """Until every kind has so many injections, or has failed."""
        while pending := [kind for kind in self._kinds if not self._is_done(kind, share)]:
            self._replace_ended()
            for kind in pending:
                self._turn(kind)
            time.sleep(TURN_SECONDS)

    def end(self) -> None:
        """Let every program come to its end, and judge it."""
        self._stop.touch()
        deadline = time.monotonic() + END_SECONDS
        for member in self._members.values():
            try:
                member.popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._deviates(member.kind, f"it does not end: {member.output.read_text()}")
            else:
                self._judge(member)
        self._members.clear()

    def kill(self) -> None:
        """End what is still there, whatever it is doing."""
        for member in self._members.values():
            for target in [*member.targets()][::-1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target.pid, signal.SIGKILL)
            member.popen.kill()
            member.popen.wait()

    def _is_done(self, kind: Kind, share: int) -> bool:
        tally = self.tallies[kind.name]
        failed = len(tally.late) > share * (1 - LEAST_SHARE) or bool(tally.deviations)
        return tally.counted >= share or failed

    def _deviates(self, kind: Kind, what: str) -> None:
        self.tallies[kind.name].deviations.append(what)

    def _judge(self, member: Member) -> None:
        self.tallies[member.kind.name].ended += 1
        if (deviation := member.verdict()) is not None:
            self._deviates(member.kind, deviation)

    def _replace_ended(self) -> None:
        for kind in self._kinds:
            member = self._members.get(kind.name)
            if member is not None and member.popen.poll() is None:
                continue
            if member is not None:
                self._judge(member)
            number = self._started[kind.name]
            self._started[kind.name] += 1
            words = kind.commands[number % len(kind.commands)]
            command = [word.replace(STOP, str(self._stop)) for word in words]
            output = self._folder / f"{kind.name.replace(' ', '-')}-{number}"
            self._members[kind.name] = self._start(kind, command, output)

    def _turn(self, kind: Kind) -> None:
        """Begin an injection into a program of this kind, or go on with the one under way."""
        injection = self._injections.get(kind.name) or self._begin(self._members[kind.name])
        if injection is None or injection.due > time.monotonic():
            return
        self._injections[kind.name] = injection
        tally = self.tallies[kind.name]
        try:
            visit = self._inject(injection)
        except ProcessGone:
            del self._injections[kind.name]
        except Postponed as error:
            tally.postponed[error.reason] += 1
            injection.postpone(error.reason)
            if injection.is_late():
                verb = "enrolled" if injection.on else "released"
                tally.late.append(f"not {verb}: {Counter(injection.reasons)}")
                del self._injections[kind.name]
        except KernelError as error:
            self._deviates(kind, repr(error))
            del self._injections[kind.name]
        else:
            del self._injections[kind.name]
            if visit is not None:
                self._count(injection, visit)

    def _begin(self, member: Member) -> Injection | None:
        targets = [*member.targets()]
        if not targets:
            return None
        process = random.choice(targets)
        merges = kernel.merge_any(process.pid)
        if merges is None:
            return None
        now = time.monotonic()
        return Injection(member, process, on=not merges, started=now, due=now)

    def _inject(self, injection: Injection) -> Visit | None:
        """Change the state, and look whether it is so.

        Returns:
            The visit that did it; None if somebody else had: a parent's state is inherited.
        """
        process = injection.process
        if injection.on:
            if isinstance(enrol(process, self._recorder), AlreadyMergeable):
                return None
        else:
            keeps_flags = self._keeps_flags
            progress = release(process, self._recorder, lambda: None, keeps_flags=keeps_flags)
            if not progress.done:
                raise Postponed(process.pid, progress.reason or "")
        state = kernel.merge_any(process.pid)
        if state is None:
            raise ProcessGone(process.pid)
        if state is not injection.on:
            raise KernelError(f"merging is {state} after it was set to {injection.on}")
        return self._recorder.visit

    def _count(self, injection: Injection, visit: Visit) -> None:
        kind = injection.member.kind
        tally = self.tallies[kind.name]
        tally.caught[visit.caught_in] += 1
        tally.safeguards[visit.safeguard] += 1
        if kind.caught_in in (None, visit.caught_in):
            tally.counted += 1
        seconds = time.monotonic() - injection.started
        (tally.enrolled if injection.on else tally.released).append(seconds)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def report(tallies: dict[str, Tally]) -> Iterable[str]:
    """What was seen, line by line, for a person."""
    for name, tally in sorted(tallies.items()):
        enrolled, released = (
            "/".join(f"{percentile(values, share) * 1e3:.0f}" for share in (0.5, 0.99, 1.0))
            for values in (tally.enrolled, tally.released)
        )
        yield (
            f"{name}: {tally.counted} counted of {sum(tally.caught.values())}, {tally.ended} ended,"
            f" enrolled p50/p99/max {enrolled} ms, released {released} ms;"
            f" caught {_counts(tally.caught)}; {_counts(tally.safeguards)};"
            f" postponed {_counts(tally.postponed)}"
        )
    caught: Counter[str] = sum((tally.caught for tally in tallies.values()), Counter())
    postponed: Counter[str] = sum((tally.postponed for tally in tallies.values()), Counter())
    yield f"all: {caught.total()} injections; caught {_counts(caught)}"
    yield f"all: postponed {_counts(postponed)}"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"
