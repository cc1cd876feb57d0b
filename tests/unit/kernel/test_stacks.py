"""Where a frame may be written: only on what is certainly a stack."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.maps import Mapping, Mappings
from ksm_operator.kernel.stacks import is_own_stack

STACK = Mapping(0x7FF00000, 0x7FF21000, b"rw-p", 0, b"00:00", 0, b"[stack]")
BLOCK = Mapping(0x60001000, 0x60800000, b"rw-p", 0, b"00:00", 0, b"")
POINTER = 0x607FF6C0


def descriptor(own: int = POINTER, base: int = 0x60000000, size: int = 0x800000) -> bytes:
    """What a C library keeps at the thread pointer: itself, and somewhere the block."""
    return struct.pack("<4Q", own, 0, own, 1) + bytes(0x600) + struct.pack("<3Q", base, size, 4096)


def free(
    pointer: int,
    mappings: list[Mapping],
    *,
    main: bool = False,
    thread_pointer: int = POINTER,
    held: bytes = b"",
    need: int = 2000,
) -> bool:
    """Whether 2000 bytes below the stack pointer may be used."""
    return is_own_stack(
        pointer - need,
        pointer,
        Mappings(mappings),
        main_thread=main,
        thread_pointer=thread_pointer,
        descriptor=held,
    )


def test_stack_of_the_main_thread() -> None:
    """The kernel made it and names it."""
    assert free(0x7FF20000, [BLOCK, STACK], main=True)


def test_another_thread_on_that_stack_is_not_believed() -> None:
    """Some runtime must have put it there."""
    assert not free(0x7FF20000, [BLOCK, STACK])


def test_no_room_left() -> None:
    """Below it is nothing, or a guard page."""
    assert not free(0x7FF00100, [BLOCK, STACK], main=True)


def test_stack_of_another_thread() -> None:
    """The C library's descriptor names the block that the stack pointer lies in."""
    assert free(0x607F0000, [BLOCK, STACK], held=descriptor())


@pytest.mark.parametrize(
    "held",
    [
        b"",
        descriptor(own=0),
        descriptor(base=0x607F0000),
        descriptor(size=0x1000),
        descriptor(size=0x80000000),
    ],
    ids=["unreadable", "goroutine", "starts above us", "ends below us", "ends far above"],
)
def test_heap_is_not_taken_for_a_stack(held: bytes) -> None:
    """A goroutine's or fiber's stack has heap objects below it."""
    assert not free(0x607F0000, [BLOCK, STACK], held=held)


def test_stack_pointer_above_the_descriptor() -> None:
    """It has left its own stack."""
    assert not free(0x607FF800, [BLOCK, STACK], held=descriptor())


@pytest.mark.parametrize("rights", [b"r--p", b"rw-s", b"---p"])
def test_memory_that_is_not_private_or_writable(rights: bytes) -> None:
    """A frame there would be seen by others, or not be written."""
    other = BLOCK._replace(rights=rights)
    assert not free(0x607F0000, [other, STACK], held=descriptor())


@given(st.binary(max_size=4200), st.integers(0, 2**64 - 1))
def test_any_memory_may_lie_at_the_thread_pointer(held: bytes, pointer: int) -> None:
    """The descriptor is the program's own, and may hold anything."""
    free(pointer, [BLOCK, STACK], held=held, thread_pointer=pointer + 64)
