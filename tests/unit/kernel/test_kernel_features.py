"""The words in which a status says what the kernel can do."""

from dataclasses import fields, replace

from ksm_operator import api
from ksm_operator.agent.reporter import HELPER_IS_PROTECTED
from ksm_operator.kernel import KernelFeatures
from ksm_operator.kernel.probe import MAY_STAY_OPEN

ALL = KernelFeatures(
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


def test_features_fit_the_schema() -> None:
    """Names that are too long or too many would cost the node its whole status."""
    unsure = replace(ALL, **dict.fromkeys(MAY_STAY_OPEN, None))  # type: ignore[arg-type]
    for features in (ALL, unsure):
        names = (*features.names(), HELPER_IS_PROTECTED)
        shown = api.KernelStatus(release="6.18", method="Prctl", features=names)
        assert shown.features == names


def test_what_is_not_known_is_said() -> None:
    """`cannot` and `nobody knows` lead to the same caution, but not to the same question."""
    assert "ExecMerges" in ALL.names()
    assert "ExecMergesUnknown" in replace(ALL, exec_merges=None).names()
    cannot = replace(ALL, exec_merges=False)
    assert not [name for name in cannot.names() if name.startswith("ExecMerges")]
    assert "UnsupportedUnknown" not in ALL.names()
    assert {field.name for field in fields(ALL)} >= set(MAY_STAY_OPEN)
