"""What probes find on kernels."""

from ksm_operator.kernel import KernelFeatures

NEWEST = KernelFeatures(
    release="6.18.0",
    machine="x86_64",
    has_ksm=True,
    method="Prctl",
    unsupported=None,
    fork_inherits=True,
    exec_inherits=True,
    exec_merges=True,
    new_ranges_join=True,
    scan_skips_holes=True,
    unmerge_keeps_flags=True,
    ksm_stat_shows_flag=True,
    has_general_profit=True,
    has_advisor=True,
    has_smart_scan=True,
    smaps_shows_merged=True,
    has_fanotify=True,
    can_suspend_seccomp=True,
    cgroup_version=2,
)
"""One that can do everything."""
