"""The signal frame, byte for byte as the kernel reads it."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.x86_64 import REGISTERS, Registers, made_again
from ksm_operator.kernel.x86_64_sigframe import (
    FP_XSTATE_MAGIC1,
    FP_XSTATE_MAGIC2,
    TILE_DATA,
    TILE_DATA_BYTES,
    build_frame,
)

RESTORER = 0x7F0000001000


def xstate(size: int = 832, enabled: int = 7, in_use: int = 7) -> bytes:
    """Vector state as ptrace gives it, with recognisable bytes."""
    state = bytearray(range(256)) * (size // 256 + 1)
    del state[size:]
    struct.pack_into("<Q", state, 464, enabled)
    struct.pack_into("<Q", state, 512, in_use)
    return bytes(state)


def registers(**values: int) -> Registers:
    """Every register with a value of its own, and these."""
    made = Registers(*(0x1000 + number for number in range(len(REGISTERS))))
    made.rsp, made.cs, made.ss = 0x7FFC0001F123, 0x33, 0x2B
    for name, value in values.items():
        setattr(made, name, value)
    return made


def field(data: bytes, offset: int) -> int:
    """One 64-bit word."""
    return int(struct.unpack_from("<Q", data, offset)[0])


def test_context_is_where_the_kernel_looks() -> None:
    """Offsets of struct rt_sigframe, ucontext and sigcontext_64."""
    before = registers()
    frame = build_frame(before, 0xABCD, xstate(), RESTORER)
    assert field(frame.data, 0) == RESTORER
    assert field(frame.data, 8) == 7
    context = 8 + 40
    order = ["rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "eflags"]
    for number, name in enumerate([*(f"r{n}" for n in range(8, 16)), *order]):
        assert field(frame.data, context + 8 * number) == getattr(before, name), name
    assert struct.unpack_from("<4H", frame.data, context + 144) == (0x33, 0, 0, 0x2B)
    assert field(frame.data, context + 256) == 0xABCD
    floating = field(frame.data, context + 184)
    assert floating == frame.address + len(frame.data) - 832 - 4
    assert floating % 64 == 0


def test_alternate_signal_stack_is_kept() -> None:
    """A trace does not show it, so the frame names one that the kernel refuses."""
    frame = build_frame(registers(), 0, xstate(), RESTORER)
    assert struct.unpack_from("<i", frame.data, 8 + 16 + 8)[0] == 3


def test_vector_state_is_complete() -> None:
    """Without the right figures the kernel drops everything beyond SSE in silence."""
    before = xstate(2696, enabled=0xE7, in_use=0xE7)
    frame = build_frame(registers(), 0, before, RESTORER)
    state = frame.data[-2700:]
    assert struct.unpack_from("<IIQI", state, 464) == (FP_XSTATE_MAGIC1, 2700, 0xE7, 2696)
    assert struct.unpack_from("<I", state, 2696)[0] == FP_XSTATE_MAGIC2
    assert state[:464] == before[:464]
    assert state[512:2696] == before[512:2696]


@pytest.mark.parametrize(("in_use", "size"), [(7, 2816), (7 | TILE_DATA, 2816 + TILE_DATA_BYTES)])
def test_room_for_tiles_is_left_out_unless_used(in_use: int, size: int) -> None:
    """A thread without tiles has no room for them, and the kernel takes such a frame for broken."""
    enabled = 7 | TILE_DATA
    before = xstate(2816 + TILE_DATA_BYTES, enabled=enabled, in_use=in_use)
    frame = build_frame(registers(), 0, before, RESTORER)
    state = frame.data[-size - 4 :]
    assert struct.unpack_from("<IIQI", state, 464) == (
        FP_XSTATE_MAGIC1,
        size + 4,
        enabled & (in_use | ~TILE_DATA),
        size,
    )


@given(st.integers(2**20, 2**47 - 1), st.integers(576, 12000))
def test_frame_lies_below_the_red_zone(stack_pointer: int, size: int) -> None:
    """A leaf function keeps its variables in the 128 bytes below the stack pointer."""
    frame = build_frame(registers(rsp=stack_pointer), 0, xstate(size), RESTORER)
    assert frame.address + len(frame.data) <= stack_pointer - 128
    assert frame.address >= stack_pointer - size - 128 - 440 - 128
    assert frame.address % 16 == 8


def test_interrupted_call_starts_anew() -> None:
    """rt_sigreturn leaves nothing to restart, so the thread stands before its call."""
    again = made_again(registers(rip=0x5002, orig_rax=7, rax=2**64 - 516), 7)
    assert (again.rip, again.rax, again.orig_rax) == (0x5000, 7, 2**64 - 1)


def test_too_small_a_state() -> None:
    """Half a state would be restored as a whole one."""
    with pytest.raises(ValueError, match="575"):
        build_frame(registers(), 0, bytes(575), RESTORER)
