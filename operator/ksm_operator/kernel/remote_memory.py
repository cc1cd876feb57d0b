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
    from collections.abc import Callable

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
    buffer = ctypes.create_string_buffer(length)
    moved = _transfer(_libc.process_vm_readv, tid, address, buffer, length)
    return buffer.raw[:moved]


def write_memory(tid: int, address: int, data: bytes) -> bool:
    """Put bytes at an address; False if not all of it is writable (a part may be written then).

    Raises:
        OSError: ESRCH when it is gone, EPERM without the right to trace it.
    """
    buffer = ctypes.create_string_buffer(data, len(data))
    moved = _transfer(_libc.process_vm_writev, tid, address, buffer, len(data))
    return moved == len(data)


def _transfer(
    call: Callable[..., int],
    tid: int,
    address: int,
    buffer: ctypes.Array[ctypes.c_char],
    length: int,
) -> int:
    ours = _Iovec(ctypes.addressof(buffer), length)
    theirs = _Iovec(address, length)
    moved = call(tid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    if moved >= 0:
        return moved
    error = ctypes.get_errno()
    if error in (errno.EFAULT, errno.ENOMEM):
        return 0
    raise OSError(error, f"memory of {tid} at {address:#x}: {os.strerror(error)}")
