"""What was there before us comes back, and what others changed since stays."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import Baseline, KsmValues, SavedValue, restore_plan

DEFAULTS = KsmValues(
    run=0,
    pages_to_scan=100,
    sleep_millisecs=20,
    merge_across_nodes=1,
    max_page_sharing=256,
    use_zero_pages=0,
    smart_scan=1,
    advisor_mode="none",
)


class Node:
    """A kernel's side effects on pages_to_scan, and nothing else."""

    def __init__(self) -> None:
        self.values = DEFAULTS

    def write(self, name: str, value: int | str) -> None:
        """As mm/ksm.c does."""
        if name == "pages_to_scan":
            assert self.values.advisor_mode == "none", "EINVAL"
        if name == "advisor_mode" and value != self.values.advisor_mode:
            scan = 500 if value == "scan-time" else 100
            self.values = replace(self.values, pages_to_scan=scan)
        changed: dict[str, Any] = {name: value}
        self.values = replace(self.values, **changed)


def test_everything_is_put_back() -> None:
    """The plain case, with run written last so that ksmd never scans with half a baseline."""
    node, baseline = Node(), Baseline()
    for name, value in (("pages_to_scan", 4000), ("max_page_sharing", 512), ("run", 1)):
        baseline = baseline.record(name, node.values, value)
        node.write(name, value)
    plan = restore_plan(baseline, node.values)
    assert plan.writes == (("max_page_sharing", 256), ("pages_to_scan", 100), ("run", 0))
    assert plan.externally_modified == ()


def test_the_first_value_is_the_one_kept() -> None:
    """Later writes of ours are not somebody's baseline."""
    baseline = Baseline().record("pages_to_scan", DEFAULTS, 1000)
    baseline = baseline.record("pages_to_scan", replace(DEFAULTS, pages_to_scan=1000), 2000)
    assert baseline.files["pages_to_scan"] == SavedValue(100, 2000)


def test_foreign_changes_are_left_and_named() -> None:
    """An admin's `echo 0 > run` while we ran, and a number that is neither ours nor the old one."""
    baseline = Baseline()
    for name, value in (("run", 1), ("sleep_millisecs", 5)):
        baseline = baseline.record(name, DEFAULTS, value)
    now = replace(DEFAULTS, run=0, sleep_millisecs=50)
    plan = restore_plan(baseline, now)
    assert plan.writes == ()
    assert plan.externally_modified == ("sleep_millisecs",)


def test_advisor_takes_pages_to_scan_with_it() -> None:
    """Switching the advisor rewrites pages_to_scan: nobody's change, and it comes back too."""
    node = Node()
    node.write("pages_to_scan", 777)
    baseline = Baseline().record("advisor_mode", node.values, "scan-time")
    node.write("advisor_mode", "scan-time")
    plan = restore_plan(baseline, node.values)
    for name, value in plan.writes:
        node.write(name, value)
    assert plan.externally_modified == ()
    assert node.values.pages_to_scan == 777
    assert node.values.advisor_mode == "none"


def test_unmerge_under_way_is_not_put_back() -> None:
    """A baseline of run=2 ends where the kernel ends: at 0."""
    baseline = Baseline({"run": SavedValue(2, 1)})
    assert restore_plan(baseline, replace(DEFAULTS, run=1)).writes == (("run", 0),)


VALUES = {
    "run": st.integers(0, 1),
    "pages_to_scan": st.integers(0, 10000),
    "sleep_millisecs": st.integers(0, 1000),
    "use_zero_pages": st.integers(0, 1),
    "advisor_mode": st.sampled_from(["none", "scan-time"]),
}


@given(
    st.lists(
        st.sampled_from(sorted(VALUES)).flatmap(
            lambda name: VALUES[name].map(lambda value: (name, value))
        )
    )
)
def test_any_history_of_ours_is_undone(writes: list[tuple[str, int | str]]) -> None:
    """Whatever we wrote in whatever order, one restore brings every value back."""
    node, baseline = Node(), Baseline()
    for name, value in writes:
        if name == "pages_to_scan" and node.values.advisor_mode != "none":
            continue
        baseline = baseline.record(name, node.values, value)
        node.write(name, value)
    baseline = Baseline.from_dict(baseline.to_dict())
    plan = restore_plan(baseline, node.values)
    for name, value in plan.writes:
        node.write(name, value)
    assert plan.externally_modified == ()
    assert node.values == DEFAULTS
    assert restore_plan(baseline, node.values).writes in {(), (("pages_to_scan", 100),)}


HISTORY = st.lists(
    st.sampled_from(sorted(VALUES)).flatmap(
        lambda name: VALUES[name].map(lambda value: (name, value))
    )
)


@given(HISTORY, HISTORY)
def test_what_others_wrote_last_is_never_overwritten(
    ours: list[tuple[str, int | str]], theirs: list[tuple[str, int | str]]
) -> None:
    """An administrator's value stays, unless it is the very value that we had written."""
    node, baseline = Node(), Baseline()
    for name, value in ours:
        if name == "pages_to_scan" and node.values.advisor_mode != "none":
            continue
        baseline = baseline.record(name, node.values, value)
        node.write(name, value)
    touched = set()
    for name, value in theirs:
        if name == "pages_to_scan" and node.values.advisor_mode != "none":
            continue
        node.write(name, value)
        touched.add(name)
    now = node.values
    plan = restore_plan(baseline, now)
    # pages_to_scan comes back with an advisor that is ours to switch: the kernel rewrites it.
    with_advisor = any(name == "advisor_mode" for name, _ in plan.writes)
    for name, value in plan.writes:
        written = baseline.files[name].written
        effect = name == "pages_to_scan" and (with_advisor or now.pages_to_scan == 100)
        assert name not in touched or now.get(name) == written or effect, (name, value)
    for name in plan.externally_modified:
        assert now.get(name) not in (baseline.files[name].before, baseline.files[name].written)


def test_pages_to_scan_of_one_who_switched_our_advisor_off() -> None:
    """Our advisor had changed the number, but it is theirs by now."""
    node = Node()
    baseline = Baseline().record("advisor_mode", node.values, "scan-time")
    node.write("advisor_mode", "scan-time")
    node.write("advisor_mode", "none")
    assert restore_plan(baseline, node.values).writes == ()
    node.write("pages_to_scan", 777)
    plan = restore_plan(baseline, node.values)
    assert plan.writes == ()
    assert plan.externally_modified == ("pages_to_scan",)


@pytest.mark.parametrize(
    "bad",
    [
        {"full_scans": {"before": 0, "written": 1}},
        {"run": 1},
        {"run": {"before": "0", "written": 1}},
        {"run": {"written": 1}},
        {"advisor_mode": {"before": "fast", "written": None}},
    ],
)
def test_a_damaged_state_file_is_refused(bad: dict[str, object]) -> None:
    """What is read from disk becomes sysfs values: nothing odd gets through."""
    with pytest.raises(ValueError, match="baseline"):
        Baseline.from_dict(bad)
