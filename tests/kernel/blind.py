"""A visitor that does not look before it stops a thread: what choosing one is there for."""

import threading
from collections.abc import Callable
from contextlib import closing

from kernel.calls import get_merge
from ksm_operator.kernel import KernelError, Process
from ksm_operator.kernel.alarm import Alarm
from ksm_operator.kernel.attached import Attached
from ksm_operator.kernel.blocking import Suitability
from ksm_operator.kernel.procfs import PROC
from ksm_operator.kernel.threads import Candidate
from ksm_operator.kernel.tracer import OPTIONS
from ksm_operator.kernel.x86_64_caller import X8664Caller


def make_a_call(target: Attached) -> None:
    """What a visit does to a thread that it takes for one that runs."""
    caller = X8664Caller(target, Candidate(target.tid, Suitability.RUNNING, "running"))
    caller.before_interrupt()
    target.stop(caller.undo_eintr)
    caller.make([get_merge()])


def run_on(target: Attached) -> None:
    """Only let it run from the stop to its next system call."""
    target.stop(lambda _signal: None)
    target.step(0.5)


class BlindVisit:
    """One visit to this very thread, from a tracing thread of its own.

    Attributes:
        error: what it ended with; None if the call was made.
    """

    def __init__(
        self, process: Process, tid: int, act: Callable[[Attached], None] = make_a_call
    ) -> None:
        self.error: KernelError | None = None
        self._thread = threading.Thread(target=self._run, args=(Attached(process, tid, PROC), act))
        self._thread.start()

    def ended(self) -> KernelError | None:
        """Wait for its end, at which the kernel lets go of the target in any case."""
        self._thread.join()
        return self.error

    def _run(self, target: Attached, act: Callable[[Attached], None]) -> None:
        target.seize(OPTIONS)
        with closing(Alarm()) as alarm, alarm.running():
            try:
                act(target)
                target.leave()
            except KernelError as error:
                self.error = error
