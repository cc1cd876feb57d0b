"""What the agent and its helper tell each other arrives as it was sent."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import (
    KernelError,
    Postponed,
    Process,
    ProcessGone,
    Refused,
    RemoteCallFailed,
    Syscall,
    Unsupported,
    Visit,
)
from ksm_operator.kernel.attached import ThreadUnsuitable
from ksm_operator.kernel.helper_messages import (
    LineReader,
    decode_answer,
    decode_greeting,
    decode_requests,
    encode_answer,
    encode_greeting,
    encode_requests,
)

WORDS = st.text(max_size=20)
NUMBERS = st.integers(-(2**63), 2**64 - 1)
CALLS = st.builds(
    Syscall,
    WORDS,
    st.lists(NUMBERS, max_size=6).map(tuple),
    st.floats(0, 1000, allow_nan=False),
)
REQUESTS = st.lists(
    st.tuples(st.builds(Process, st.integers(1, 2**22), NUMBERS), st.lists(CALLS)), max_size=5
)
VISITS = st.builds(Visit, st.lists(NUMBERS).map(tuple), NUMBERS, WORDS, NUMBERS)


@given(REQUESTS)
def test_requests(requests: list[tuple[Process, list[Syscall]]]) -> None:
    """A number that came out otherwise would be another address in somebody's memory."""
    line = encode_requests(requests)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1, "one message is one line"
    assert decode_requests(line) == requests


@given(VISITS)
def test_visits(visit: Visit) -> None:
    """Results decide what is done next."""
    assert decode_answer(encode_answer(visit)) == visit


@pytest.mark.parametrize(
    "error",
    [
        ProcessGone(7),
        Postponed(7, "BusyInSyscall", "write: 1\n2"),
        Refused(7, "ThirtyTwoBit"),
        RemoteCallFailed(7, "prctl", 12),
        Unsupported("no KSM"),
        KernelError("anything else"),
    ],
)
def test_errors_cross_as_themselves(error: KernelError) -> None:
    """Callers tell by kind and reason whether to come back, to count, or to forget."""
    line = encode_answer(error)
    assert line.count(b"\n") == 1
    answer = decode_answer(line)
    assert type(answer) is type(error)
    assert str(answer) == str(error)
    assert vars(answer) == vars(error)


def test_an_error_of_an_unknown_kind_is_still_one() -> None:
    """What the helper's inner modules raise must not end it."""
    answer = decode_answer(encode_answer(ThreadUnsuitable("Exiting", "thread 3")))
    assert type(answer) is KernelError
    assert str(answer) == "Exiting: thread 3"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"7",
        b'{"error": "Postponed"}',
        b'{"error": "SystemExit", "message": "", "attributes": {}}',
        b'{"visit": {"results": [0]}}',
    ],
)
def test_nonsense_is_told_apart(line: bytes) -> None:
    """A helper that answers like this is ended and started anew."""
    with pytest.raises(ValueError):  # noqa: PT011 - json's own kind is one too
        decode_answer(line)


def test_greeting() -> None:
    """It says what the kernel granted, or why the helper cannot work."""
    assert decode_greeting(encode_greeting(-1000)) == -1000
    with pytest.raises(Unsupported, match="riscv"):
        decode_greeting(encode_answer(Unsupported("machine riscv")))
    with pytest.raises(ValueError, match="greeting"):
        decode_greeting(encode_answer(Visit((0,), 1, "poll", 5)))


def test_lines_arrive_in_any_pieces() -> None:
    """A stream keeps no boundaries, and must not be waited for beyond the time given."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = LineReader(ours)
        theirs.sendall(b"one\ntwo\nth")
        assert reader.read(5) == b"one"
        assert reader.read(5) == b"two"
        with pytest.raises(TimeoutError):
            reader.read(0.001)
        theirs.sendall(b"ree\n")
        assert reader.read(5) == b"three"
        theirs.close()
        assert reader.read(5) == b""
