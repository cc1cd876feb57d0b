"""What the kernel says of who asks for merging."""

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.ksm_enter import parse_events

LINE = b"%16s-%-7d [001] ..... 72344.421128: ksm_enter: mm 000000009860e159\n"


def test_events_as_the_kernel_writes_them() -> None:
    """The form of trace_pipe on Linux 6.18, with tgids recorded, and after a loss."""
    text = (
        b"         python3-4256    [001] ..... 72344.421128: ksm_enter: mm 000000009860e159\n"
        b"       workloads-4255    (   4100) [000] .N... 72344.418110: ksm_enter: mm 0000000082b9\n"
        b"           <...>-4257    [002] d.h1. 72344.5: ksm_enter: mm 0\n"
    )
    assert parse_events(text).tids == {4256, 4255, 4257}
    assert not parse_events(text).lost
    assert parse_events(b"CPU:1 [LOST 23 EVENTS]\n" + text).lost


@given(st.lists(st.tuples(st.binary(max_size=15), st.integers(1, 2**22)), max_size=20))
def test_no_name_hides_a_thread(threads: list[tuple[bytes, int]]) -> None:
    """A program gives itself any name of 15 bytes, and must not speak for others by it."""
    text = b"".join(LINE % (name, tid) for name, tid in threads)
    assert parse_events(text).tids == {tid for _, tid in threads}


@given(st.binary())
def test_any_text_is_read(text: bytes) -> None:
    """Reading ends in the middle of a line."""
    parse_events(text)
