"""An alarm that ends a blocking wait of one thread, so that no wait is without a deadline.

waitpid(2) takes no time limit. To ask again and again instead costs a target milliseconds of its
stop on a busy machine: whoever does not block is not the one that the scheduler lets the target
hand over to. So the thread blocks, and a timer of its own interrupts it at times; timer_create(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNAL: Final = signal.SIGRTMAX

SECONDS: Final = 0.1
"""How long a wait lasts at most until it is interrupted; by this much a deadline may be late."""

CLOCK_MONOTONIC: Final = 1
SIGEV_THREAD_ID: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)


class NoTimer(KernelError):  # noqa: N818 - names what happened, as in errors.py
    """A tracing thread got no timer of the kernel; nothing was touched."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"no timer for a tracing thread ({os.strerror(number)}): too many signals are pending "
            "for this user; raise RLIMIT_SIGPENDING"
        )


class _SignalEvent(ctypes.Structure):
    """struct sigevent of 64-bit Linux, include/uapi/asm-generic/siginfo.h."""

    _fields_ = (
        ("value", ctypes.c_uint64),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("rest", ctypes.c_int * 11),
    )


class _TimerSetting(ctypes.Structure):
    """struct itimerspec; both times in seconds and nanoseconds."""

    _fields_ = (("interval", ctypes.c_long * 2), ("first", ctypes.c_long * 2))


class Alarm:
    """A timer of the thread that made it."""

    def __init__(self) -> None:
        """Set it up; it does not run yet.

        Raises:
            NoTimer: the kernel has none left for this user.
        """
        # The signal has to have a handler to interrupt anything, which has nothing to do: any
        # function of C that may be called at any moment serves, and Python's would run elsewhere.
        _libc.signal(int(SIGNAL), _libc.getpid)
        signal.siginterrupt(SIGNAL, True)
        event = _SignalEvent(
            signal=SIGNAL, notify=SIGEV_THREAD_ID, thread=threading.get_native_id()
        )
        self._timer = ctypes.c_void_p()
        arguments = CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)
        if _libc.timer_create(*arguments) != 0:
            raise NoTimer(ctypes.get_errno())

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Blocking system calls of the thread end with EINTR now and then."""
        nanoseconds = int(SECONDS * 1e9)
        self._set(_TimerSetting((0, nanoseconds), (0, nanoseconds)))
        try:
            yield
        finally:
            self._set(_TimerSetting())

    def _set(self, setting: _TimerSetting) -> None:
        _check(_libc.timer_settime(self._timer, 0, ctypes.byref(setting), None))

    def close(self) -> None:
        """Give the timer back."""
        _check(_libc.timer_delete(self._timer))


def _check(answer: int) -> None:
    if answer != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"timer of a tracing thread: {os.strerror(error)}")
