"""The one thread that traces: ptrace belongs to the thread that attached.

Callers on any thread hand their calls over and wait for the result.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from ksm_operator.kernel import ptrace
from ksm_operator.kernel.alarm import Alarm, NoTimer
from ksm_operator.kernel.attached import RUNNABLE_SECONDS, StillAttached, ThreadUnsuitable
from ksm_operator.kernel.blocking import Suitability
from ksm_operator.kernel.errors import KernelError, Postponed
from ksm_operator.kernel.machine import this_machine
from ksm_operator.kernel.procfs import PROC, Process, check_alive, parse_fields, read_status
from ksm_operator.kernel.remote import Syscall, Visit, visit
from ksm_operator.kernel.threads import running_threads, waiting_threads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ksm_operator.kernel.helper_messages import Request
    from ksm_operator.kernel.threads import Candidate

MOST_TRIES: Final = 4
"""Threads of one process tried in one call."""

ATTACH_SECONDS: Final = 5.0
"""A seize waits while the target is inside an exec; after this the caller is told to come back."""

RETRY_PAUSES: Final = (0.001, 0.004, 0.016)
"""Seconds before another try when something came between that passes at once."""

NO_WAY_BACK: Final = "NoSafeReturn"
"""A thread that could not return to its own state by itself, and whose call must not answer 0."""

TRANSIENT: Final = frozenset(
    {
        *("SignalArrived", "Interrupted", "Exec"),
        *("Busy", "BusyInSyscall", "RestartableSequence", NO_WAY_BACK),
    }
)

OPTIONS: Final = ptrace.PTRACE_O_TRACESYSGOOD | ptrace.PTRACE_O_TRACEEXEC

CAP_SYS_ADMIN: Final = 21


class RemoteCalls(Protocol):
    """Whatever can make a process run system calls."""

    def call(self, process: Process, calls: Sequence[Syscall]) -> Visit:
        """Let the process make the calls; see `Tracer.call`."""


class _Job:
    """One request on its way to the tracing thread.

    Not a `concurrent.futures.Future`, with which `logging` comes: 0.4 MiB of the helper.
    """

    def __init__(self, process: Process, calls: Sequence[Syscall]) -> None:
        self.process = process
        self.calls = calls
        self.abandoned = threading.Event()
        self._done = threading.Event()
        self._outcome: Visit | Exception | None = None

    def finish(self, outcome: Visit | Exception) -> None:
        """Give the caller's thread what it waits for."""
        self._outcome = outcome
        self._done.set()

    def result(self, seconds: float) -> Visit | None:
        """What the tracing thread brought, or raise what it met; None if that takes longer."""
        self._done.wait(seconds)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class Tracer:
    """Makes processes run system calls, one at a time, from a thread of its own."""

    def __init__(self, *, proc: Path = PROC) -> None:
        """Prepare; nothing is touched before the first call.

        Raises:
            Unsupported: this machine's registers are not known here.
        """
        self._machine = this_machine()
        self._proc = proc
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._options = OPTIONS
        self._may_suspend_seccomp = may_suspend_seccomp(proc=proc)
        if self._may_suspend_seccomp:
            # Always, not only for targets seen with a filter: one may be installed meanwhile.
            self._options |= ptrace.PTRACE_O_SUSPEND_SECCOMP

    def call(self, process: Process, calls: Sequence[Syscall]) -> Visit:
        """Let the process make these system calls, all in one stop of one of its threads.

        A signal that gets in the way is delivered first and the calls are tried again a few times.

        Raises:
            ProcessGone: it exited.
            Postponed: not at this moment; nothing was changed, or only what the calls before did.
            Refused: a 32-bit process.
            KernelError: anything else; the target is as it was.
        """
        for pause in RETRY_PAUSES:
            try:
                return self._call(process, calls)
            except Postponed as error:
                if error.reason not in TRANSIENT:
                    raise
            time.sleep(pause)
        return self._call(process, calls)

    def _call(self, process: Process, calls: Sequence[Syscall]) -> Visit:
        check_alive(process, proc=self._proc)
        self._check_seccomp(process)
        patience = ATTACH_SECONDS + RUNNABLE_SECONDS + sum(call.seconds for call in calls)
        with self._lock:
            job = _Job(process, calls)
            self._start()
            self._jobs.put(job)
            try:
                made = job.result(patience)
            except StillAttached as error:
                worker = self._worker
                self._retire()
                if worker is not None:
                    worker.join(ATTACH_SECONDS)
                raise Postponed(process.pid, error.reason, str(error)) from error
            except NoTimer:
                self._retire()  # its thread has ended; the next call tries anew
                raise
            except KernelError:
                raise
            except Exception:
                self._retire()
                raise
            if made is None:
                # Most likely the seize waits for an exec to end. Leave that thread to it: it
                # lets go of the target as soon as it comes back.
                job.abandoned.set()
                self._retire()
                raise Postponed(process.pid, "AttachBlocked")
            return made

    def call_many(self, requests: Sequence[Request]) -> list[Visit | KernelError]:
        """The calls of many processes; what `call` would raise for one stands in its place."""
        answers: list[Visit | KernelError] = []
        for process, calls in requests:
            try:
                answers.append(self.call(process, calls))
            except KernelError as error:
                answers.append(error)
        return answers

    def close(self) -> None:
        """End the tracing thread; a later call starts a new one."""
        with self._lock:
            worker = self._worker
            self._retire()
            if worker is not None:
                worker.join(ATTACH_SECONDS)

    def _start(self) -> None:
        if self._worker is None:
            self._worker = threading.Thread(
                target=self._run, args=(self._jobs,), name="tracer", daemon=True
            )
            self._worker.start()

    def _retire(self) -> None:
        self._jobs.put(None)
        self._jobs = queue.SimpleQueue()
        self._worker = None

    def _check_seccomp(self, process: Process) -> None:
        if self._may_suspend_seccomp:
            return
        if read_status(process.pid, proc=self._proc).get("Seccomp", "0") != "0":
            raise Postponed(
                process.pid,
                "SeccompCannotBeSuspended",
                "needs CAP_SYS_ADMIN and a caller that is not under seccomp itself",
            )

    def _run(self, jobs: queue.SimpleQueue[_Job | None]) -> None:
        try:
            alarm = Alarm()
        except NoTimer as error:
            if (job := jobs.get()) is not None:
                job.finish(error)
            return
        with contextlib.closing(alarm):
            while (job := jobs.get()) is not None:
                try:
                    job.finish(self._serve(job, alarm))
                except StillAttached as error:
                    # Ending this thread is what makes the kernel let go of the target.
                    job.finish(error)
                    return
                except KernelError as error:
                    job.finish(error)
                except Exception as error:  # noqa: BLE001 - the caller's thread raises it
                    job.finish(error)
                    return
                if job.abandoned.is_set():
                    return

    def _serve(self, job: _Job, alarm: Alarm) -> Visit:
        names = self._machine.names
        waiting = waiting_threads(job.process, names, proc=self._proc)
        tids = {candidate.tid for candidate in waiting}
        outcome = self._try(job, alarm, waiting)
        if outcome is None or (
            isinstance(outcome, ThreadUnsuitable) and outcome.reason == NO_WAY_BACK
        ):
            try:
                running = running_threads(job.process, names, passed_over=tids, proc=self._proc)
            except Postponed as error:
                if error.reason == "Exiting":
                    check_alive(job.process, proc=self._proc)
                if outcome is None:
                    raise
            else:
                outcome = self._try(job, alarm, running)
        if isinstance(outcome, Visit):
            return outcome
        assert outcome is not None
        if outcome.reason == "Exiting":
            check_alive(job.process, proc=self._proc)
        raise Postponed(job.process.pid, outcome.reason, outcome.detail)

    def _try(
        self, job: _Job, alarm: Alarm, candidates: list[Candidate]
    ) -> Visit | ThreadUnsuitable | None:
        """Visit one after the other until one serves; returns why the last one did not."""
        refusal: ThreadUnsuitable | None = None
        for _ in range(min(MOST_TRIES, len(candidates))):
            if job.abandoned.is_set():
                raise Postponed(job.process.pid, "AttachBlocked")
            try:
                return self._visit(job, alarm, candidates.pop(0))
            except ThreadUnsuitable as error:
                refusal = error
            if refusal.reason == NO_WAY_BACK:
                # A runtime with stacks of its own: most likely the next one has no way back either.
                candidates.sort(key=_must_not_answer_zero)
        return refusal

    def _visit(self, job: _Job, alarm: Alarm, candidate: Candidate) -> Visit:
        try:
            return self._visit_with(self._options, job, alarm, candidate)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._may_suspend_seccomp:
                raise
            # A kernel without CONFIG_CHECKPOINT_RESTORE does not know the option.
            self._may_suspend_seccomp = False
            self._options = OPTIONS
            self._check_seccomp(job.process)
            return self._visit_with(self._options, job, alarm, candidate)

    def _visit_with(self, options: int, job: _Job, alarm: Alarm, candidate: Candidate) -> Visit:
        return visit(
            job.process,
            candidate,
            job.calls,
            machine=self._machine,
            options=options,
            alarm=alarm,
            abandoned=job.abandoned.is_set,
            proc=self._proc,
        )


def _must_not_answer_zero(candidate: Candidate) -> bool:
    return candidate.suitability is not Suitability.ZERO_IS_LEGAL


def may_suspend_seccomp(*, proc: Path = PROC) -> bool:
    """True if this process may switch a target's seccomp filter off while it is stopped.

    The kernel wants CAP_SYS_ADMIN and a tracer without a filter (kernel/ptrace.c).
    """
    status = parse_fields((proc / "self/status").read_text(encoding="utf-8", errors="replace"))
    capabilities = int(status.get("CapEff", "0"), 16)
    return status.get("Seccomp", "0") == "0" and bool(capabilities >> CAP_SYS_ADMIN & 1)
