"""System calls that this package makes or has to recognise: numbers, and what a stop does to them.

Sources of the numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h
(aarch64). What an interrupted call returns: signal(7) and the file that each row names, Linux 6.18.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Interrupted(Enum):
    """What the kernel makes of a blocked call when its thread is stopped."""

    RESTARTS = "Restarts"
    """ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND: the call is made again, none the wiser."""

    RESUMES = "Resumes"
    """ERESTART_RESTARTBLOCK: restart_syscall(2) waits for the rest of the time."""

    EINTR = "Eintr"
    """The call ends with EINTR. Nothing was transferred, so it may be made again."""

    MAY_EINTR = "MayEintr"
    """RESTARTS; EINTR on a socket with SO_RCVTIMEO or SO_SNDTIMEO."""

    SHORT = "Short"
    """It ends with what was transferred so far, which nothing can undo."""

    ELSEWHERE = "Elsewhere"
    """Not a call to stop a thread in: it makes processes, or ends at once."""


@dataclass(frozen=True, slots=True)
class Call:
    """One system call.

    Attributes:
        name: as the kernel calls it.
        x86_64: its number there, None if there is none.
        aarch64: its number there, None if there is none.
        interrupted: what a stop makes of it.
        source: where the kernel's source says so.
    """

    name: str
    x86_64: int | None
    aarch64: int | None
    interrupted: Interrupted
    source: str


_R, _B, _E = Interrupted.RESTARTS, Interrupted.RESUMES, Interrupted.EINTR
_M, _S, _X = Interrupted.MAY_EINTR, Interrupted.SHORT, Interrupted.ELSEWHERE

CALLS: Final = (
    # Waits that end by a timeout, a wake-up or an event.
    Call("futex", 202, 98, _B, "kernel/futex/waitwake.c futex_wait()"),
    Call("futex_wait", 455, 455, _R, "kernel/futex/waitwake.c __futex_wait()"),
    Call("futex_waitv", 449, 449, _R, "kernel/futex/waitwake.c futex_wait_multiple()"),
    Call("nanosleep", 35, 101, _B, "kernel/time/hrtimer.c hrtimer_nanosleep()"),
    Call("clock_nanosleep", 230, 115, _B, "kernel/time/hrtimer.c hrtimer_nanosleep()"),
    Call("poll", 7, None, _B, "fs/select.c sys_poll()"),
    Call("ppoll", 271, 73, _R, "fs/select.c poll_select_finish()"),
    Call("select", 23, None, _R, "fs/select.c poll_select_finish()"),
    Call("pselect6", 270, 72, _R, "fs/select.c poll_select_finish()"),
    Call("restart_syscall", 219, 128, _B, "kernel/signal.c"),
    Call("epoll_wait", 232, None, _E, "fs/eventpoll.c ep_poll()"),
    Call("epoll_pwait", 281, 22, _E, "fs/eventpoll.c ep_poll()"),
    Call("epoll_pwait2", 441, 441, _E, "fs/eventpoll.c ep_poll()"),
    Call("io_getevents", 208, 4, _E, "fs/aio.c sys_io_getevents()"),
    Call("io_pgetevents", 333, 292, _E, "fs/aio.c sys_io_pgetevents()"),
    Call("io_uring_enter", 426, 426, _E, "io_uring/io_uring.c io_cqring_wait()"),
    # Waits for something to read, to accept, to lock, to reap.
    Call("read", 0, 63, _M, "fs/pipe.c, fs/eventfd.c, fs/timerfd.c, net/socket.c"),
    Call("readv", 19, 65, _M, "as read"),
    Call("pread64", 17, 67, _R, "as read"),
    Call("preadv", 295, 69, _R, "as read"),
    Call("preadv2", 327, 286, _R, "as read"),
    Call("recvfrom", 45, 207, _M, "include/net/sock.h sock_intr_errno()"),
    Call("recvmsg", 47, 212, _M, "include/net/sock.h sock_intr_errno()"),
    Call("accept", 43, 202, _M, "include/net/sock.h sock_intr_errno()"),
    Call("accept4", 288, 242, _M, "include/net/sock.h sock_intr_errno()"),
    Call("connect", 42, 203, _M, "include/net/sock.h sock_intr_errno()"),
    Call("wait4", 61, 260, _R, "kernel/exit.c do_wait()"),
    Call("waitid", 247, 95, _R, "kernel/exit.c do_wait()"),
    Call("flock", 73, 32, _R, "fs/locks.c flock_lock_inode_wait()"),
    Call("fcntl", 72, 25, _R, "fs/locks.c fcntl_setlk()"),
    Call("openat", 257, 56, _R, "fs/pipe.c wait_for_partner()"),
    Call("mq_timedreceive", 243, 183, _R, "ipc/mqueue.c wq_sleep()"),
    Call("mq_timedsend", 242, 182, _R, "ipc/mqueue.c wq_sleep()"),
    Call("getrandom", 318, 278, _R, "drivers/char/random.c wait_for_random_bytes()"),
    Call("pause", 34, None, _R, "kernel/signal.c sys_pause()"),
    Call("rt_sigsuspend", 130, 133, _R, "kernel/signal.c sigsuspend()"),
    Call("rt_sigtimedwait", 128, 137, _E, "kernel/signal.c do_sigtimedwait()"),
    Call("semop", 65, 193, _E, "ipc/sem.c __do_semtimedop()"),
    Call("semtimedop", 220, 192, _E, "ipc/sem.c __do_semtimedop()"),
    Call("msgrcv", 70, 188, _E, "ipc/msg.c do_msgrcv() (RESTARTNOHAND since 2.6)"),
    Call("msgsnd", 69, 189, _E, "ipc/msg.c do_msgsnd() (RESTARTNOHAND since 2.6)"),
    # Transfers.
    Call("write", 1, 64, _S, "fs/pipe.c pipe_write(), net/ipv4/tcp.c tcp_sendmsg_locked()"),
    Call("writev", 20, 66, _S, "as write"),
    Call("pwrite64", 18, 68, _S, "as write"),
    Call("pwritev", 296, 70, _S, "as write"),
    Call("pwritev2", 328, 287, _S, "as write"),
    Call("sendto", 44, 206, _S, "as write"),
    Call("sendmsg", 46, 211, _S, "as write"),
    Call("sendmmsg", 307, 269, _S, "as write"),
    Call("recvmmsg", 299, 243, _S, "net/socket.c do_recvmmsg()"),
    Call("sendfile", 40, 71, _S, "fs/splice.c splice_direct_to_actor()"),
    Call("splice", 275, 76, _S, "fs/splice.c"),
    Call("tee", 276, 77, _S, "fs/splice.c"),
    Call("vmsplice", 278, 75, _S, "fs/splice.c"),
    Call("copy_file_range", 326, 285, _S, "fs/read_write.c vfs_copy_file_range()"),
    # Not to be stopped in, but to be named; and what we make ourselves.
    Call("clone", 56, 220, _X, "kernel/fork.c wait_for_vfork_done()"),
    Call("clone3", 435, 435, _X, "kernel/fork.c wait_for_vfork_done()"),
    Call("fork", 57, None, _X, "kernel/fork.c"),
    Call("vfork", 58, None, _X, "kernel/fork.c wait_for_vfork_done()"),
    Call("execve", 59, 221, _X, "fs/exec.c"),
    Call("execveat", 322, 281, _X, "fs/exec.c"),
    Call("madvise", 28, 233, _X, "mm/madvise.c"),
    Call("prctl", 157, 167, _X, "kernel/sys.c"),
)
