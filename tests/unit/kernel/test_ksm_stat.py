"""What /proc says of merging, in every form that kernels print."""

from pathlib import Path

from ksm_operator.kernel import KsmStat, find_ksmd
from ksm_operator.kernel.ksm_stat import ksmd_cpu_ns, parse_ksm_stat
from unit.kernel.test_procfs import process, stat_line


def test_both_forms_of_ksm_stat() -> None:
    """Up to 6.13 four lines without colons, then two more with them."""
    old = "ksm_rmap_items 3\nksm_zero_pages 1\nksm_merging_pages 2\nksm_process_profit -5\n"
    assert parse_ksm_stat(old) == KsmStat(3, 2, 1, -5)
    new = old + "ksm_merge_any: yes\nksm_mergeable: no\n"
    assert parse_ksm_stat(new) == KsmStat(3, 2, 1, -5, True, False)
    assert parse_ksm_stat("") == KsmStat()


def test_ksmd_is_a_kernel_thread(tmp_path: Path) -> None:
    """A program may call itself ksmd; the kernel's flag cannot be had by a name."""
    process(tmp_path, 9, stat_line(comm="ksmd"))
    assert find_ksmd(proc=tmp_path) is None
    process(tmp_path, 37, stat_line(pid=37, comm="ksmd", flags=0x200040), schedstat="123 4 5\n")
    assert find_ksmd(proc=tmp_path) == 37
    assert ksmd_cpu_ns(37, proc=tmp_path) == 123
