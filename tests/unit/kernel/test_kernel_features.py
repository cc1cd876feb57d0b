"""The words in which a status says what the kernel can do."""

from dataclasses import fields, replace

from ksm_operator import api
from ksm_operator.agent.reporter import HELPER_IS_PROTECTED
from ksm_operator.kernel.probe import MAY_STAY_OPEN
from unit.kernel.kernels import NEWEST


def test_features_fit_the_schema() -> None:
    """Names that are too long or too many would cost the node its whole status."""
    unsure = replace(NEWEST, **dict.fromkeys(MAY_STAY_OPEN, None))  # type: ignore[arg-type]
    for features in (NEWEST, unsure):
        names = (*features.names(), HELPER_IS_PROTECTED)
        shown = api.KernelStatus(release="6.18", method="Prctl", features=names)
        assert shown.features == names


def test_what_is_not_known_is_said() -> None:
    """`cannot` and `nobody knows` lead to the same caution, but not to the same question."""
    assert "ExecMerges" in NEWEST.names()
    assert "ExecMergesUnknown" in replace(NEWEST, exec_merges=None).names()
    cannot = replace(NEWEST, exec_merges=False)
    assert not [name for name in cannot.names() if name.startswith("ExecMerges")]
    assert "UnsupportedUnknown" not in NEWEST.names()
    assert {field.name for field in fields(NEWEST)} >= set(MAY_STAY_OPEN)
