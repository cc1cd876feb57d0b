"""aarch64: where a stopped thread stands, and what it is given."""

import ctypes
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.aarch64 import (
    NUMBERS,
    PSTATE_BTYPE,
    SVC,
    Place,
    Registers,
    Waited,
    for_call,
    interrupted,
    parse_waited,
    place,
    restart_code,
    rewound,
    signed,
    unsigned,
)
from ksm_operator.kernel.aarch64_sigframe import build_frame, is_own_stack
from ksm_operator.kernel.maps import parse_maps

U64 = st.integers(0, 2**64 - 1)
OTHER = b"\x1f\x20\x03\xd5"  # nop
WORDS = st.lists(U64, min_size=34, max_size=34)


def registers(words: list[int]) -> Registers:
    """All of them, in the kernel's order."""
    return Registers.from_buffer_copy(struct.pack("<34Q", *words))


def ended_with_eintr(number: int) -> tuple[Registers, Waited]:
    """A thread whose call our stop ended, and what was noted of it."""
    arguments = (5, 11, 12, 13, 14, 15)
    found = Registers()
    found.x[0] = unsigned(-4)
    found.x[1:6] = list(arguments[1:])
    found.x[8] = number
    found.sp, found.pc = 0x7000, 0x4004
    return found, Waited(number, arguments, 0x7000, 0x4004)


def test_size_is_the_kernels() -> None:
    """34 registers of 8 bytes; a 32-bit task has 72 bytes instead."""
    assert ctypes.sizeof(Registers) == 272


@given(U64)
def test_signs_round_trip(value: int) -> None:
    """The kernel's long and our register are the same bits."""
    assert unsigned(signed(value)) == value


@given(WORDS, st.sampled_from([SVC, OTHER, b""]))
def test_svc_under_the_counter_is_a_call_to_come(words: list[int], before: bytes) -> None:
    """The kernel has rewound it already, whatever lies before it."""
    assert place(registers(words), before, SVC, None) is Place.BEFORE_CALL


@pytest.mark.parametrize("name", ["epoll_pwait", "semtimedop", "io_getevents", "recvfrom"])
def test_eintr_is_rewound_if_all_is_as_noted(name: str) -> None:
    """The first argument is lost at the stop; it is what was noted before."""
    found, waited = ended_with_eintr(NUMBERS[name])
    assert place(found, SVC, OTHER, waited) is Place.AFTER_EINTR
    again = rewound(found, waited)
    assert (again.x[0], again.pc) == (5, 0x4000)
    assert found.pc == 0x4004


@given(st.sampled_from([0, 1, 3, 5, 8]), U64)
def test_eintr_of_another_call_is_left_alone(index: int, value: int) -> None:
    """A guessed first argument gave programs EBADF and EFAULT."""
    found, waited = ended_with_eintr(NUMBERS["epoll_pwait"])
    changed = value != found.x[index]
    found.x[index] = value
    expected = Place.USER_CODE if changed else Place.AFTER_EINTR
    assert place(found, SVC, OTHER, waited) is expected
    assert place(found, SVC, OTHER, None) is Place.USER_CODE
    assert place(found, OTHER, OTHER, waited) is Place.USER_CODE


def test_call_without_eintr_to_cure_is_left_alone() -> None:
    """A write that was cut short by a signal of the program's own must not be made again."""
    found, waited = ended_with_eintr(NUMBERS["sendfile"])
    assert place(found, SVC, OTHER, waited) is Place.USER_CODE


@given(WORDS, st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6).map(tuple))
def test_call_changes_its_arguments_only(words: list[int], arguments: tuple[int, ...]) -> None:
    """Whatever else the thread had in its registers stays there."""
    own = registers(words)
    prepared = for_call(own, arguments)
    assert [signed(value) for value in prepared.x[: len(arguments)]] == list(arguments)
    assert list(prepared.x[6:]) == words[6:31]
    assert (prepared.sp, prepared.pc, prepared.pstate) == tuple(words[31:])
    assert bytes(own) == struct.pack("<34Q", *words)
    moved = for_call(own, arguments, stack=0x1000, then=0x2000)
    assert (moved.sp, moved.pc, moved.pstate & PSTATE_BTYPE) == (0x1000, 0x2000, 0)


@pytest.mark.parametrize(
    ("name", "flags", "said_eintr", "code"),
    [
        ("restart_syscall", 0, False, 516),
        ("read", 0, False, 512),
        ("read", 0, True, 514),
        ("ppoll", 0, False, 514),
        ("rt_sigsuspend", 0, False, 514),
        ("epoll_pwait", 0, True, 514),
        ("clock_nanosleep", 1, False, 514),
        ("clock_nanosleep", 0, False, 513),
        ("nanosleep", 0, False, 513),
        ("futex", 0, False, 512),
        ("futex", 6 | 128, False, 513),
    ],
)
def test_restart_codes(name: str, flags: int, said_eintr: bool, code: int) -> None:  # noqa: FBT001 - a column of the table
    """A handler that runs meanwhile ends the calls that it would have ended without us."""
    arguments = (0, flags, 0, 0, 0, 0)
    assert restart_code(NUMBERS[name], arguments, said_eintr=said_eintr) == code
    own = Registers()
    own.pc, own.x[1] = 0x4000, flags
    back = interrupted(own, NUMBERS[name], said_eintr=said_eintr)
    assert (signed(back.x[0]), back.x[8], back.pc) == (-code, NUMBERS[name], 0x4004)


def test_what_a_thread_waited_in() -> None:
    """A thread that runs, or is in no call, waited in none."""
    assert parse_waited("running") is None
    assert parse_waited("-1 0x1 0x2") is None
    line = "63 0x5 0x6 0x7 0x8 0x9 0xa 0x7000 0x4004"
    assert parse_waited(line) == Waited(63, (5, 6, 7, 8, 9, 10), 0x7000, 0x4004)


@given(WORDS, U64, st.binary(min_size=528, max_size=528), st.integers(2**16, 2**47))
def test_frame_holds_what_it_was_given(
    words: list[int], mask: int, fpsimd: bytes, stack: int
) -> None:
    """Offsets of struct rt_sigframe; the kernel takes every register from there."""
    own = registers(words)
    own.sp = stack
    frame = build_frame(own, mask, fpsimd)
    assert frame.address % 16 == 0
    assert frame.address + len(frame.data) <= stack
    assert struct.unpack_from("<Q", frame.data, 128 + 40)[0] == mask
    assert frame.data[128 + 176 + 8 :].startswith(bytes(own))
    records = 128 + 176 + 288
    assert struct.unpack_from("<II", frame.data, records) == (0x46508001, 528)
    assert frame.data[records + 8 : records + 16] == fpsimd[512:520]
    assert frame.data[records + 16 : records + 528] == fpsimd[:512]
    assert frame.data[records + 528 :] == bytes(8)


def test_short_vector_state_is_refused() -> None:
    """Half a state would be loaded with whatever follows."""
    with pytest.raises(ValueError, match="FPSIMD"):
        build_frame(Registers(), 0, b"x" * 100)


MAPPINGS = parse_maps(
    b"10000-20000 rw-p 00000000 00:00 0 \n70000-90000 rw-p 00000000 00:00 0    [stack]\n"
)


@pytest.mark.parametrize(
    ("words", "stack_pointer", "own"),
    [
        ((0x10000, 0xF800), 0x18000, True),
        ((0x1F000, 0x100), 0x18000, False),
        ((), 0x18000, False),
        ((0x10000, 0xF800), 0x1F900, False),
    ],
)
def test_stack_of_a_thread(words: tuple[int, ...], stack_pointer: int, own: bool) -> None:  # noqa: FBT001 - a column of the table
    """Only what the C library's descriptor, below the thread pointer, calls a stack is one."""
    assert own is is_own_stack(
        stack_pointer - 2048,
        stack_pointer,
        MAPPINGS,
        main_thread=False,
        thread_pointer=0x1F700,
        descriptor=struct.pack(f"<{len(words)}Q", *words),
    )


def test_stack_of_the_main_thread() -> None:
    """The kernel made it and names it; another thread may not claim it."""

    def judged(*, main_thread: bool) -> bool:
        return is_own_stack(
            0x7F000,
            0x80000,
            MAPPINGS,
            main_thread=main_thread,
            thread_pointer=0,
            descriptor=b"",
        )

    assert judged(main_thread=True)
    assert not judged(main_thread=False)
