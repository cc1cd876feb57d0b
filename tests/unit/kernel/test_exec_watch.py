"""Messages of the process connector."""

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.exec_watch import CN_MSG, EVENT, EXEC, NLMSG, PROC_EVENT_EXEC, parse_exec

NUMBER = st.integers(0, 2**32 - 1)


def message(what: int, thread: int, process: int) -> bytes:
    """One as cn_proc.c makes it: 40 bytes of an event, of which an exec fills the first 24."""
    event = (EVENT.pack(what, 0, 1) + EXEC.pack(thread, process)).ljust(40, b"\0")
    connector = CN_MSG.pack(1, 1, 7, 0, len(event), 0)
    size = NLMSG.size + len(connector) + len(event)
    return NLMSG.pack(size, 3, 0, 7, 0) + connector + event


@given(thread=NUMBER, process=NUMBER)
def test_an_exec_names_its_process(thread: int, process: int) -> None:
    """Any thread may exec; it is the process that becomes another program."""
    assert parse_exec(message(PROC_EVENT_EXEC, thread, process)) == process


@given(what=NUMBER.filter(lambda what: what != PROC_EVENT_EXEC))
def test_other_events_name_nobody(what: int) -> None:
    """The answer to our own wish to listen is one of them."""
    assert parse_exec(message(what, 1, 1)) is None


@given(data=st.binary(max_size=200))
def test_anything_else_does_no_harm(data: bytes) -> None:
    """The thread that reads must not end with what it reads."""
    assert parse_exec(data) is None or len(data) >= NLMSG.size + CN_MSG.size + EVENT.size
