"""The table of system calls."""

import pytest

from ksm_operator.kernel.syscalls import CALLS, Interrupted


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_are_given_once(machine: str) -> None:
    """Two names for one number would make one call be taken for the other."""
    numbers = [getattr(call, machine) for call in CALLS if getattr(call, machine) is not None]
    assert len(set(numbers)) == len(numbers)


def test_names_are_given_once() -> None:
    """A second row would silently win over the first."""
    assert len({call.name for call in CALLS}) == len(CALLS)


def test_every_row_says_where_it_was_read() -> None:
    """A row without a source cannot be checked against the next kernel."""
    assert all(call.source for call in CALLS)


def test_calls_since_5_1_have_one_number_everywhere() -> None:
    """The kernel gives new calls the same number on every machine, from 424 on."""
    new = [call for call in CALLS if (call.x86_64 or 0) >= 424]
    assert new
    assert all(call.x86_64 == call.aarch64 for call in new)


def test_our_own_calls_are_not_stopped_in() -> None:
    """A thread inside the call that we make must finish it first."""
    ours = {call.name: call for call in CALLS if call.name in ("prctl", "madvise")}
    assert {call.interrupted for call in ours.values()} == {Interrupted.ELSEWHERE}
