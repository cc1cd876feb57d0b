"""ksmd's files: recorded before they are written, given back, never fought over."""

from pathlib import Path
from typing import Any

import pytest

from ksm_operator.agent.knobs import Knobs, Restored
from ksm_operator.agent.settings import optional_values
from ksm_operator.agent.state import State
from ksm_operator.agent.wire import Ksmd
from ksm_operator.kernel import Baseline, KsmSysfs
from unit.agent.ksmd_files import FOUND, found, held


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Files as a machine has them after boot."""
    return found(tmp_path)


def knobs(root: Path, state: State | None = None) -> Knobs:
    """The agent's hands on these files."""
    return Knobs(KsmSysfs(root), state or State("boot"), lambda: None)


def test_what_was_found_comes_back(root: Path) -> None:
    """Releasing a node leaves it as it was, however often values were written in between."""
    ours = knobs(root)
    for pages in (500, 2000, 300):
        ours.apply({"pages_to_scan": pages, "smart_scan": 0, "run": 1})
    assert held(root) == FOUND | {"pages_to_scan": 300, "smart_scan": 0, "run": 1}
    assert ours.restore() == Restored()
    assert held(root) == FOUND


def test_values_that_hold_already_are_not_touched(root: Path) -> None:
    """What was never written needs no baseline and is no change of ours."""
    ours = knobs(root)
    ours.apply({"sleep_millisecs": 20})
    assert not ours.state.baseline.files


def test_recorded_before_written(root: Path) -> None:
    """An agent killed between the two must find the old value in its record."""
    state, saved = State("boot"), []

    def save() -> None:
        saved.append((dict(state.baseline.files), held(root)["run"]))

    Knobs(KsmSysfs(root), state, save).apply({"run": 1})
    files, value = saved[0]
    assert files["run"].before == 0
    assert value == 0


def test_an_admin_wins(root: Path) -> None:
    """A value that somebody else changed is left alone until the policy is edited."""
    ours = knobs(root)
    ours.apply({"run": 1})
    (root / "run").write_text("0\n")
    ours.notice()
    ours.apply({"run": 1})
    assert held(root)["run"] == 0
    assert ours.state.yielded == {"run"}
    ours.reclaim()
    ours.notice()
    ours.apply({"run": 1})
    assert held(root)["run"] == 1


def test_an_admins_value_survives_release(root: Path) -> None:
    """Giving back must not overwrite what somebody else wrote meanwhile."""
    ours = knobs(root)
    ours.apply({"smart_scan": 0, "pages_to_scan": 500})
    (root / "pages_to_scan").write_text("4000\n")
    assert ours.restore() == Restored(left_alone=("pages_to_scan",))
    assert held(root) == FOUND | {"pages_to_scan": 4000}


def test_missing_files_are_reported(root: Path) -> None:
    """An older kernel has fewer files; the policy must hear which of its wishes came to nothing."""
    troubles = knobs(root).apply({"use_zero_pages": 1, "advisor_mode": "none", "smart_scan": 0})
    assert troubles.missing == ("use_zero_pages",)
    assert held(root)["smart_scan"] == 0


@pytest.mark.parametrize(("ours_stopped", "yielded"), [(True, set()), (False, {"run"})])
def test_a_stopped_ksmd_after_a_restart(
    root: Path,
    ours_stopped: bool,  # noqa: FBT001 - a table's column
    yielded: set[str],
) -> None:
    """Our own 0 (limit, SIGTERM) is resumed; an admin's 0 is respected."""
    first = knobs(root)
    first.apply({"run": 1})
    if ours_stopped:
        first.apply({"run": 0})
    else:
        (root / "run").write_text("0\n")
    second = knobs(root, State.from_dict(first.state.to_dict()))
    second.adopt()
    assert second.state.yielded == yielded


def test_an_admins_zero_is_told_from_that_of_the_agent_before(root: Path) -> None:
    """An agent that was ended and one that took over: whoever stops ksmd after that means it."""
    first = knobs(root)
    first.apply({"run": 1})
    first.apply({"run": 0})
    second = knobs(root, State.from_dict(first.state.to_dict()))
    second.adopt()
    second.apply({"run": 1})
    (root / "run").write_text("0\n")
    third = knobs(root, State.from_dict(second.state.to_dict()))
    third.adopt()
    assert third.state.yielded == {"run"}


@pytest.mark.parametrize("again", ["after a pause", "after a release"])
def test_an_admins_zero_is_told_from_an_earlier_stop(root: Path, again: str) -> None:
    """A policy that goes on, or comes back: the 0 of then says nothing of the one now."""
    first = knobs(root)
    first.apply({"run": 1})
    if again == "after a pause":
        first.apply({"run": 0})
        first.reclaim()
    else:
        first.restore()
        first.state.baseline, first.state.run_is_ours = Baseline(), False
    first.apply({"run": 1})
    (root / "run").write_text("0\n")
    second = knobs(root, State.from_dict(first.state.to_dict()))
    second.adopt()
    assert second.state.yielded == {"run"}


class Killed(BaseException):
    """SIGKILL: nothing of ours runs any more."""


class Mortal(KsmSysfs):
    """Files and record of an agent that is killed before or after it writes one of them."""

    def __init__(self, root: Path, instants: int) -> None:
        super().__init__(root)
        self.state = State("boot")
        self.record: Any = self.state.to_dict()
        self._left = instants

    def _lives(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed

    def write(self, name: str, value: int | str) -> None:
        """Write a file of ksmd."""
        self._lives()
        super().write(name, value)
        self._lives()

    def save(self) -> None:
        """Write the record."""
        self._lives()
        self.record = self.state.to_dict()
        self._lives()


def test_killed_at_any_instant_it_takes_nothing_of_its_own_for_an_admins(root: Path) -> None:
    """The next agent would leave ksmd stopped, and a value unrestored, until somebody edits."""
    (root / "use_zero_pages").write_text("0\n")
    instants = 0
    survived = False
    while not survived:
        mortal = Mortal(root, instants)
        first = Knobs(mortal, mortal.state, mortal.save)
        try:
            first.apply({"use_zero_pages": 1})
            first.apply({"smart_scan": 0, "pages_to_scan": 500, "run": 1})
            first.apply({"run": 0})
            first.apply({"pages_to_scan": 700, "run": 1})
            first.restore()
            survived = True
        except Killed:
            instants += 1
        second = knobs(root, State.from_dict(mortal.record))
        second.adopt()
        second.notice()
        assert not second.state.yielded, f"killed after {instants - 1} instants"
        second.apply({"run": 1})
        second.notice()
        assert held(root)["run"] == 1
        assert not second.state.yielded, f"killed after {instants - 1} instants"
        assert second.restore() == Restored()
        assert held(root) == FOUND
        assert (root / "use_zero_pages").read_text() == "0\n"
    assert instants > 20


def test_measured_values_are_adopted_after_a_restart(root: Path) -> None:
    """They change with every interval and are not recorded each time: not an admin's doing."""
    first = knobs(root)
    first.apply({"pages_to_scan": 500})
    (root / "pages_to_scan").write_text("777\n")
    second = knobs(root, State.from_dict(first.state.to_dict()))
    second.adopt()
    second.notice()
    assert not second.state.yielded
    assert second.restore() == Restored()
    assert held(root) == FOUND


def test_optional_values_only_where_set() -> None:
    """A value that the policy does not mention stays as the machine's owner left it."""
    assert optional_values(Ksmd()) == {}
    asked = Ksmd(merge_across_numa_nodes=False, max_page_sharing=64, smart_scan=True)
    assert optional_values(asked) == {
        "merge_across_nodes": 0,
        "max_page_sharing": 64,
        "smart_scan": 1,
    }


def test_an_admins_stop_is_not_undone_between_two_looks(root: Path) -> None:
    """A budget switches ksmd on and off many times a second, and each time looks first."""
    ours = knobs(root)
    ours.apply({"run": 1})
    (root / "run").write_text("0\n")
    ours.apply({"run": 0})
    ours.apply({"run": 1})
    assert held(root)["run"] == 0
    assert ours.state.yielded == {"run"}
