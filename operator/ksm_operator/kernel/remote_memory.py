"""Reading and writing another process's memory as that process itself could; process_vm_readv(2).

Unlike /proc/PID/mem this never goes past the protection of a range, so nothing that the process may
not write can be written by mistake.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


for _call in (_libc.process_vm_readv, _libc.process_vm_writev):
    _call.restype = ctypes.c_ssize_t
    _call.argtypes = (
        ctypes.c_int,
        ctypes.POINTER(_Iovec),
        ctypes.c_ulong,
        ctypes.POINTER(_Iovec),
        ctypes.c_ulong,
        ctypes.c_ulong,
    )


def read_memory(tid: int, address: int, length: int) -> bytes:
    """Bytes at an address; fewer, or none, where nothing readable is mapped.

    Raises:
        OSError: ESRCH when it is gone, EPERM without the right to trace it.
    """
    return read_pieces(tid, [(address, length)])[0]


def read_pieces(tid: int, pieces: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes at several addresses in one go, each with its length.

    What follows on a piece that is not readable in whole is empty.

    Raises:
        OSError: ESRCH when it is gone, EPERM without the right to trace it.
    """
    length = sum(length for _, length in pieces)
    buffer = ctypes.create_string_buffer(length)
    moved = _transfer(_libc.process_vm_readv, tid, pieces, buffer, length)
    found, rest = [], buffer.raw[:moved]
    for _, length in pieces:
        found.append(rest[:length])
        rest = rest[length:]
    return found


def write_memory(tid: int, address: int, data: bytes) -> bool:
    """Put bytes at an address; False if not all of it is writable (a part may be written then).

    Raises:
        OSError: ESRCH when it is gone, EPERM without the right to trace it.
    """
    length = len(data)
    buffer = ctypes.create_string_buffer(data, length)
    return _transfer(_libc.process_vm_writev, tid, [(address, length)], buffer, length) == length


def _transfer(
    call: Callable[..., int],
    tid: int,
    pieces: Sequence[tuple[int, int]],
    buffer: ctypes.Array[ctypes.c_char],
    length: int,
) -> int:
    ours = _Iovec(ctypes.addressof(buffer), length)
    theirs = (_Iovec * len(pieces))(*(_Iovec(*piece) for piece in pieces))
    moved = call(tid, ctypes.byref(ours), 1, theirs, len(pieces), 0)
    if moved >= 0:
        return moved
    error = ctypes.get_errno()
    if error in (errno.EFAULT, errno.ENOMEM):
        return 0
    raise OSError(error, f"memory of {tid} at {pieces[0][0]:#x}: {os.strerror(error)}")
