"""Binary records of fanotify and inotify, whole, cut off and nonsense."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import fanotify, inotify


def fan_record(mask: int, name: bytes) -> bytes:
    """An event with one DFID_NAME record, as fanotify(7) lays it out."""
    handle = struct.pack("=Ii", 8, 1) + b"inode_no"
    body = b"\1" * 8 + handle + name + b"\0"
    body += bytes(-(4 + len(body)) % 4)
    info = struct.pack("=BBH", 2, 0, 4 + len(body)) + body
    return struct.pack("=IBBHQii", 24 + len(info), 3, 0, 24, mask, -1, 0) + info


def test_fanotify_events() -> None:
    """Name and handle of each, in order."""
    data = fan_record(0x40000100, b"pod1") + fan_record(0x40000200, b"a b")
    first, second = fanotify.parse_events(data)
    assert (first.mask, first.name, first.handle[8:]) == (0x40000100, "pod1", b"inode_no")
    assert (second.mask, second.name) == (0x40000200, "a b")


def test_fanotify_overflow_has_no_name() -> None:
    """The event that says that others were lost."""
    data = struct.pack("=IBBHQii", 24, 3, 0, 24, 0x4000, -1, 0)
    (event,) = fanotify.parse_events(data)
    assert (event.mask, event.name, event.handle) == (0x4000, "", b"")


@given(st.binary(max_size=200))
def test_fanotify_nonsense_ends(data: bytes) -> None:
    """No bytes make it loop or raise."""
    list(fanotify.parse_events(data))


@given(st.binary(max_size=80), st.integers(0, 80))
def test_fanotify_cut_off(name: bytes, end: int) -> None:
    """A record that was cut off is not read beyond its end."""
    list(fanotify.parse_events(fan_record(0x40000100, name)[:end]))


def test_inotify_events() -> None:
    """Names are padded with zeroes."""
    data = struct.pack("=iIII", 3, 0x40000100, 0, 16) + b"pod1".ljust(16, b"\0")
    assert inotify.parse_events(data * 2) == [(3, 0x40000100, "pod1")] * 2


@given(st.binary(max_size=200))
def test_inotify_nonsense_ends(data: bytes) -> None:
    """No bytes make it loop or raise."""
    inotify.parse_events(data)
