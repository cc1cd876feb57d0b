"""/proc/PID/maps, whatever it holds."""

from ksm_operator.kernel.maps import Mapping, parse_maps

TEXT = b"""\
55f0a7c00000-55f0a7c28000 r--p 00000000 fe:00 12345 /usr/bin/my program (deleted)
55f0a7c28000-55f0a7d00000 r-xp 00028000 fe:00 12345 /usr/bin/my program (deleted)
7f0000000000-7f0000021000 rw-p 00000000 00:00 0
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_lines() -> None:
    """Names may hold spaces, anonymous ranges have none."""
    ranges = parse_maps(TEXT).ranges
    assert len(ranges) == 5
    assert ranges[1] == Mapping(
        0x55F0A7C28000,
        0x55F0A7D00000,
        b"r-xp",
        0x28000,
        b"fe:00",
        12345,
        b"/usr/bin/my program (deleted)",
    )
    assert ranges[2].name == b""


def test_range_of_an_address() -> None:
    """The first address belongs to it, the last one does not."""
    maps = parse_maps(TEXT)
    assert maps.at(0x7FFC00000000) is maps.ranges[3]
    assert maps.at(0x7FFC00020FFF) is maps.ranges[3]
    assert maps.at(0x7FFC00021000) is None
    assert maps.at(0) is None
