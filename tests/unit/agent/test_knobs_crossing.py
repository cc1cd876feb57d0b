"""Writes of ours and of others that cross: which is whose, and that an administrator's wins."""

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ksm_operator.agent.knobs import Knobs
from ksm_operator.agent.state import State
from ksm_operator.kernel import KsmSysfs, KsmValues, PatientSysfs, SysfsBusy
from unit.agent.ksmd_files import found, held

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Files as a machine has them after boot."""
    return found(tmp_path)


class Slow(PatientSysfs):
    """Files of which one is written only when a test lets it: opening a FIFO waits for a reader."""

    def __init__(self, root: Path, name: str) -> None:
        held_up = root / "held-up"
        held_up.mkdir()
        os.mkfifo(held_up / name)
        super().__init__(held_up, 0.05)
        self._fifo, self._file = held_up / name, root / name
        self.while_reading: Callable[[], None] = lambda: None

    def read(self) -> KsmValues:
        """What the files hold."""
        values = KsmSysfs(self._file.parent).read()
        self.while_reading()
        return values

    def let_go(self) -> str:
        """Let the write come to its end; what was written."""
        text = self._fifo.read_text()
        assert self._thread is not None
        self._thread.join()
        self._file.write_text(text)
        return text


def test_a_write_that_waits_for_ksmd_is_nobody_elses(root: Path) -> None:
    """A hostile process holds ksmd up; what is written meanwhile comes to its end later."""
    sysfs = Slow(root, "run")
    ours = Knobs(sysfs, State("boot"), lambda: None)
    ours.apply({"run": 1})
    ours.apply({"run": 0, "pages_to_scan": 100})
    ours.notice()
    assert not ours.state.yielded
    assert sysfs.let_go() == "1\n"
    ours.notice()
    assert not ours.state.yielded


def test_a_write_that_ends_during_a_look_is_nobody_elses(root: Path) -> None:
    """The old value was read and the write is over: ksmd would rest until somebody edits."""
    sysfs = Slow(root, "run")
    ours = Knobs(sysfs, State("boot"), lambda: None)
    ours.apply({"run": 1})

    def end() -> None:
        sysfs.while_reading = lambda: None
        sysfs.let_go()

    sysfs.while_reading = end
    assert ours.notice().run == 0
    ours.notice()
    assert not ours.state.yielded


def test_an_admins_stop_during_a_write_that_waits_is_kept_in_mind(root: Path) -> None:
    """Which of the two came last nobody knows: ksmd stands still, and that is theirs."""
    wrote: list[bool] = []
    sysfs = Slow(root, "run")
    ours = Knobs(sysfs, State("boot"), lambda: None, lambda: bool(wrote and wrote.pop()))
    ours.apply({"run": 1})
    wrote.append(True)
    ours.notice()
    assert not ours.state.yielded
    sysfs.let_go()
    ours.notice()
    assert ours.state.yielded == {"run"}
    assert sysfs.let_go() == "0\n"


@pytest.mark.parametrize("edited", ["before it was judged", "while it is made good"])
def test_an_edit_takes_over_while_a_write_waits(root: Path, edited: str) -> None:
    """What an administrator did before the edit must not count after it."""
    wrote: list[bool] = []
    sysfs = Slow(root, "run")
    ours = Knobs(sysfs, State("boot"), lambda: None, lambda: bool(wrote and wrote.pop()))
    ours.apply({"run": 1})
    wrote.append(True)
    if edited == "while it is made good":
        sysfs.let_go()
    ours.reclaim()
    sysfs.let_go()
    ours.notice()
    assert not ours.state.yielded


def test_a_write_that_is_refused_in_the_end_is_nobody_elses(root: Path) -> None:
    """Pages may be shared by the time at which ksmd goes on: it is tried again, not given up."""
    held_up = threading.Event()

    class Refusing(KsmSysfs):
        def write(self, name: str, value: int | str) -> None:
            held_up.wait()
            if value == 0:
                raise SysfsBusy(self.root / name, "pages are shared")
            super().write(name, value)

    class RefusingLate(PatientSysfs, Refusing):
        def wait(self) -> None:
            held_up.set()
            assert self._thread is not None
            self._thread.join()

    (root / "merge_across_nodes").write_text("1\n")
    sysfs = RefusingLate(root, 0.05)
    ours = Knobs(sysfs, State("boot"), lambda: None)
    assert ours.apply({"merge_across_nodes": 0}).pending == ("merge_across_nodes",)
    assert ours.apply({"merge_across_nodes": 0}).pending == ("merge_across_nodes",)
    sysfs.wait()
    ours.notice()
    assert not ours.state.yielded
    assert not ours.state.baseline.files
    assert ours.apply({"merge_across_nodes": 0}).pending == ("merge_across_nodes",)


@pytest.mark.parametrize("admin", [0, 1])
def test_an_admins_stop_that_was_overwritten_is_made_good(root: Path, admin: int) -> None:
    """A 0 between our look and our 1 would leave ksmd running with nobody to stop it.

    What the other one wrote cannot be told any more, and a manager that wrote 1 does so again.
    """
    wrote: list[bool] = []

    class Overtaken(KsmSysfs):
        def write(self, name: str, value: int | str) -> None:
            if value == 1:
                (root / "run").write_text(f"{admin}\n")
                wrote.append(True)
            super().write(name, value)

    state = State("boot")
    ours = Knobs(Overtaken(root), state, lambda: None, lambda: bool(wrote and wrote.pop()))
    ours.apply({"run": 1})
    assert held(root)["run"] == 1
    assert ours.notice().run == 0
    assert held(root)["run"] == 0
    assert ours.state.yielded == {"run"}
    (root / "run").write_text("1\n")
    ours.apply({"run": 0})
    ours.notice()
    assert held(root)["run"] == 1, "their second word is left alone"
    ours.reclaim()
    ours.apply({"run": 0})
    assert held(root)["run"] == 0


def test_a_manager_that_starts_a_ksmd_that_runs_is_not_fought(root: Path) -> None:
    """We wrote nothing since our last look, so the 1 in the file is theirs."""
    wrote: list[bool] = []
    ours = Knobs(KsmSysfs(root), State("boot"), lambda: None, lambda: bool(wrote and wrote.pop()))
    ours.apply({"run": 1})
    ours.notice()
    wrote.append(True)
    ours.apply({"run": 0})
    assert held(root)["run"] == 1
    assert ours.state.yielded == {"run"}


def test_a_stop_to_be_made_good_waits_for_another_write(root: Path) -> None:
    """While ksmd holds up one file another is not written: the stop must not be lost by that."""
    wrote: list[bool] = []
    (root / "merge_across_nodes").write_text("1\n")

    class AnotherWaits(Slow):
        def write(self, name: str, value: int | str) -> None:
            if name == "run" and not self.unfinished:
                KsmSysfs(root).write(name, value)
            else:
                super().write(name, value)

    sysfs = AnotherWaits(root, "merge_across_nodes")
    ours = Knobs(sysfs, State("boot"), lambda: None, lambda: bool(wrote and wrote.pop()))
    ours.apply({"run": 1, "merge_across_nodes": 0})
    wrote.append(True)
    ours.notice()
    ours.apply({"run": 0})
    assert held(root)["run"] == 1
    assert not ours.state.yielded
    sysfs.let_go()
    ours.notice()
    assert held(root)["run"] == 0
    assert ours.state.yielded == {"run"}


def test_an_admins_stop_counts_while_ksmd_stands_still_anyway(root: Path) -> None:
    """The same value is written over the same value, and only the write itself tells."""
    wrote: list[bool] = [True]  # before we came, which is nobody's business
    ours = Knobs(KsmSysfs(root), State("boot"), lambda: None, lambda: bool(wrote and wrote.pop()))
    ours.apply({"run": 1})
    ours.apply({"run": 0})
    assert not ours.state.yielded
    wrote.append(True)
    ours.apply({"run": 1})
    assert held(root)["run"] == 0
    assert ours.state.yielded == {"run"}
    ours.reclaim()
    ours.apply({"run": 1})
    assert held(root)["run"] == 1
