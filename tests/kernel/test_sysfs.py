"""The real files of ksmd take what the table says, and refuse what it says."""

import pytest

from kernel.conftest import Holders, wait_until
from ksm_operator.kernel import (
    Baseline,
    KsmSysfs,
    SysfsBusy,
    SysfsInvalid,
    Tracer,
    enrol,
    restore_plan,
)
from ksm_operator.kernel.sysfs_files import FILES, WHILE_SHARED, WRITABLE
from support import kernel


def test_no_file_of_this_kernel_is_unknown(ksm: None) -> None:
    """A file that a new kernel adds is noticed here first."""
    assert {file.name for file in kernel.KSM.iterdir()} <= set(FILES)
    writable = set(kernel.settings())
    assert writable <= {*WRITABLE, "advisor_mode"}
    assert {name for name in WRITABLE if (kernel.KSM / name).exists()} <= writable


def test_the_ends_of_each_range_are_taken(ksm_settings: dict[str, bytes]) -> None:
    """A number that the table allows is one that the kernel keeps."""
    sysfs = KsmSysfs()
    now = sysfs.read()
    for name, ends in WRITABLE.items():
        # Others may share pages on this machine, and the kernel refuses two files meanwhile.
        if now.get(name) is None or name == "run" or FILES[name].refused == WHILE_SHARED:
            continue
        for value in ends:
            sysfs.write(name, value)
            assert sysfs.read().get(name) == value, name


def test_the_advisor_owns_pages_to_scan(ksm_settings: dict[str, bytes]) -> None:
    """The kernel's EINVAL has a name, and the advisor's side effects are put back."""
    sysfs = KsmSysfs()
    if sysfs.read().advisor_mode is None:
        pytest.skip("this kernel has no advisor: Linux 6.8 or later is needed")
    sysfs.write("pages_to_scan", 777)
    baseline = Baseline().record("advisor_mode", sysfs.read(), "scan-time")
    sysfs.write("advisor_mode", "scan-time")
    with pytest.raises(SysfsInvalid, match="while advisor_mode is scan-time"):
        sysfs.write("pages_to_scan", 1000)
    plan = restore_plan(baseline, sysfs.read())
    for name, value in plan.writes:
        sysfs.write(name, value)
    assert not plan.externally_modified
    after = sysfs.read()
    assert (after.advisor_mode, after.pages_to_scan) == ("none", 777)


@pytest.mark.usefixtures("prctl")
def test_not_while_pages_are_shared(ksmd: None, holder: Holders, tracer: Tracer) -> None:
    """EBUSY has a name, and what to do about it; the value that is there already is no change."""
    sysfs = KsmSysfs()
    for _ in range(2):
        enrol(holder(4).process, tracer)
    wait_until(lambda: kernel.counter("pages_shared") > 0, "shared pages")
    now = sysfs.read()
    assert now.max_page_sharing is not None
    sysfs.write("max_page_sharing", now.max_page_sharing)
    with pytest.raises(SysfsBusy, match="release them first"):
        sysfs.write("max_page_sharing", now.max_page_sharing + 1)
    if now.merge_across_nodes is not None:
        with pytest.raises(SysfsBusy, match="release them first"):
            sysfs.write("merge_across_nodes", 1 - now.merge_across_nodes)
    after = sysfs.read()
    assert (after.max_page_sharing, after.merge_across_nodes) == (
        now.max_page_sharing,
        now.merge_across_nodes,
    )
