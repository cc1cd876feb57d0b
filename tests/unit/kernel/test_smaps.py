"""The ranges of a process, from text of real kernels."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.procfs import Process, page_size
from ksm_operator.kernel.smaps import parse_vmas, read_merged_bytes

TEXT = """\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0
Size:               2048 kB
Rss:                2048 kB
Anonymous:          1024 kB
KSM:                 512 kB
AnonHugePages:         8 kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd wr mr mw me ac mg sd
7ffc0000-7ffd0000 r--p 00001000 fe:00 12    /tmp/a name: with - signs
Rss:                   4 kB
ProtectionKey:         3
VmFlags: rd mr
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_ranges_and_their_numbers() -> None:
    """Flags, names and bytes belong to the header above them."""
    first, second, last = parse_vmas(TEXT)
    assert (first.start, first.size, first.name) == (0x7F0000000000, 2 << 20, "")
    assert (first.rss_bytes, first.anonymous_bytes, first.ksm_bytes) == (2 << 20, 1 << 20, 1 << 19)
    assert first.huge_bytes == 8192
    assert first.is_mergeable
    assert second.name == "/tmp/a name: with - signs"
    assert not second.is_mergeable
    assert (first.has_high_flags, second.has_high_flags) == (False, True)
    assert (last.name, last.rss_bytes, last.flags) == ("[vsyscall]", 0, frozenset())


@given(st.text(alphabet="0123456789abcdef-: kBVmFlagsmg\n/[]", max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    """A mapped file's name is the program's choice."""
    parse_vmas(text)


@given(st.integers(0, len(TEXT)), st.integers(0, len(TEXT)), st.text(max_size=20))
def test_a_damaged_text_yields_sound_ranges_only(start: int, end: int, instead: str) -> None:
    """Addresses become arguments of system calls: none comes from half a line."""
    for vma in parse_vmas(TEXT[:start] + instead + TEXT[end:]):
        assert 0 <= vma.start < vma.end
        assert min(vma.rss_bytes, vma.anonymous_bytes, vma.ksm_bytes, vma.huge_bytes) >= 0


@pytest.mark.parametrize("flag", ["ui", "ss", "mt", "sl"])
def test_flags_above_bit_31(flag: str) -> None:
    """Older kernels lose them in MADV_UNMERGEABLE; `um` and `uw` are below."""
    header = "1000-2000 rw-p 00000000 00:00 0\nVmFlags: rd wr um uw"
    (low,) = parse_vmas(header)
    (high,) = parse_vmas(f"{header} {flag}")
    assert (low.has_high_flags, high.has_high_flags) == (False, True)


def test_merged_bytes_come_from_the_page_tables(tmp_path: Path) -> None:
    """ksm_stat goes on counting pages that were given back; older kernels have nothing else."""
    directory = tmp_path / "9"
    directory.mkdir()
    (directory / "ksm_stat").write_text("ksm_merging_pages 500\nksm_zero_pages 2\n")
    rollup = directory / "smaps_rollup"
    rollup.write_text(
        "00400000-7ff000 ---p 00000000 00:00 0 [rollup]\nKSM:                 12 kB\n"
    )
    assert read_merged_bytes(Process(9, 1), proc=tmp_path) == 12 * 1024 + 2 * page_size()
    rollup.write_text("00400000-7ff000 ---p 00000000 00:00 0 [rollup]\nRss: 12 kB\n")
    assert read_merged_bytes(Process(9, 1), proc=tmp_path) == 502 * page_size()
