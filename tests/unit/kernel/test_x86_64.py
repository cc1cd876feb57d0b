"""Registers: what is given to the thread, and what it gets back."""

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.blocking import EINTR_BECOMES_RESTART
from ksm_operator.kernel.ptrace import StopKind, parse_stop
from ksm_operator.kernel.x86_64 import (
    NUMBERS,
    REGISTERS,
    Registers,
    for_call,
    in_syscall,
    signed,
    unsigned,
    with_restart,
)

U64 = st.integers(0, 2**64 - 1)


def registers(**values: int) -> Registers:
    """Registers of which only these matter."""
    made = Registers()
    for name, value in values.items():
        setattr(made, name, unsigned(value))
    return made


def test_size_is_the_kernels() -> None:
    """27 registers of 8 bytes; a 32-bit task has 68 bytes instead."""
    assert ctypes.sizeof(Registers) == 216


@given(U64)
def test_signs_round_trip(value: int) -> None:
    """The kernel's long and our register are the same bits."""
    assert unsigned(signed(value)) == value


@pytest.mark.parametrize("name", sorted(EINTR_BECOMES_RESTART))
def test_eintr_becomes_a_restart(name: str) -> None:
    """The program must not learn of our stop; nothing but the result register changes."""
    stopped = registers(orig_rax=NUMBERS[name], rax=-4, rip=0x1000, rdi=7)
    back = with_restart(stopped, EINTR_BECOMES_RESTART)
    assert signed(back.rax) == -514
    assert (back.orig_rax, back.rip, back.rdi) == (NUMBERS[name], 0x1000, 7)
    assert signed(stopped.rax) == -4


@pytest.mark.parametrize(
    ("number", "result"),
    [
        (NUMBERS["poll"], -516),
        (NUMBERS["futex"], -512),
        (NUMBERS["epoll_wait"], 3),
        (NUMBERS["pause"], -4),
        (3, -4),
        (-1, -4),
    ],
)
def test_everything_else_is_given_back_as_it_was(number: int, result: int) -> None:
    """The kernel restarts the rest by itself; close() must never run twice."""
    stopped = registers(orig_rax=number, rax=result)
    assert bytes(with_restart(stopped, EINTR_BECOMES_RESTART)) == bytes(stopped)


@given(st.tuples(*[U64] * len(REGISTERS)), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6))
def test_only_what_a_call_needs_is_changed(values: tuple[int, ...], arguments: list[int]) -> None:
    """Stack, flags and segments stay; the original is not touched."""
    before = Registers(*values)
    copy = bytes(before)
    prepared = for_call(before, 157, tuple(arguments), 0x4000)
    assert bytes(before) == copy
    assert (prepared.rip, prepared.rax, signed(prepared.orig_rax)) == (0x4000, 157, -1)
    changed = {"rip", "rax", "orig_rax", "rdi", "rsi", "rdx", "r10", "r8", "r9"}
    for name in set(REGISTERS) - changed:
        assert getattr(prepared, name) == getattr(before, name)
    assert [signed(getattr(prepared, name)) for name in ("rdi", "rsi", "rdx", "r10", "r8", "r9")][
        : len(arguments)
    ] == arguments


def test_user_code_is_told_from_a_call() -> None:
    """Interrupts leave -1 where a system call leaves its number."""
    assert in_syscall(registers(orig_rax=0))
    assert not in_syscall(registers(orig_rax=-1))


@pytest.mark.parametrize(
    ("status", "kind", "signal"),
    [
        (0x80057F, StopKind.INTERRUPTED, 0),
        (0x80137F, StopKind.GROUP_STOP, 0),
        (0x857F, StopKind.SYSCALL, 0),
        (0x0A7F, StopKind.SIGNAL, 10),
        (0x057F, StopKind.SIGNAL, 5),
        (0x4057F, StopKind.EXEC, 0),
        (0x3057F, StopKind.OTHER, 0),
        (0x0009, StopKind.GONE, 0),
        (0x0100, StopKind.GONE, 0),
    ],
)
def test_stops_are_told_apart(status: int, kind: StopKind, signal: int) -> None:
    """Status words as ptrace(2) describes them."""
    stop = parse_stop(status)
    assert (stop.kind, stop.signal) == (kind, signal)
