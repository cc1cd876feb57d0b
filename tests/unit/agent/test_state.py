"""What survives a restart."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.descent import is_ours
from ksm_operator.agent.state import Container, MarksOnRecord, State, StateError, load, save
from ksm_operator.kernel import Baseline, KsmValues, Marks, Process, Range
from ksm_operator.kernel.baseline import SavedValue
from ksm_operator.kernel.ranges import joined

RECORDS = Path(__file__).parent / "records"
PROCESSES = st.builds(Process, st.integers(1, 2**22), st.integers(0, 2**40))
RANGES = st.lists(st.tuples(st.integers(0, 2**35), st.integers(1, 2**20)), max_size=4).map(
    lambda many: joined(Range(at << 12, (at + pages) << 12) for at, pages in many)
)
MARKS = st.builds(
    Marks, st.sampled_from(["Prctl", "Madvise"]), st.integers(1, 2**47), RANGES, RANGES
)
CONTAINERS = st.builds(
    Container,
    st.text(max_size=36),
    st.text(max_size=40),
    st.sets(PROCESSES),
    st.sets(PROCESSES),
    st.dictionaries(PROCESSES, MARKS, max_size=3).map(MarksOnRecord),
)
STATES = st.builds(
    State,
    boot_id=st.text(max_size=36),
    owner=st.text(max_size=36),
    baseline=st.sampled_from(
        [Baseline(), Baseline().record("run", KsmValues(run=0, pages_to_scan=100), 1)]
    ),
    containers=st.lists(CONTAINERS, max_size=4).map(lambda many: {one.path: one for one in many}),
    run_is_ours=st.booleans(),
    yielded=st.sets(st.sampled_from(["run", "pages_to_scan"])),
    told=st.none() | st.just({"desiredState": "Merging"}),
    generation=st.integers(0, 2**40),
)


@given(STATES)
def test_round_trip(state: State) -> None:
    """A restarted agent knows exactly what the one before it did."""
    assert State.from_dict(json.loads(json.dumps(state.to_dict()))) == state


@pytest.mark.parametrize("version", [1, 2])
def test_records_of_earlier_versions_are_read(version: int, tmp_path: Path) -> None:
    """An upgrade finds pods enrolled by the agent before it: these files its code has written."""
    text = (RECORDS / f"version-{version}.json").read_text()
    data = json.loads(text)
    read = load(RECORDS / f"version-{version}.json", data["bootID"])
    one, two, own = (Process(4100 + n, 880010 + n) for n in (1, 2, 3))
    (container,) = read.containers.values()
    assert container.pod_uid == "6f1c2a34-9d0e-4b7f-8a55-0c1d2e3f4a5b"
    assert container.path == f"/kubepods/burstable/pod{container.pod_uid}/{'a1' * 32}"
    assert (container.enrolled, container.own) == ({one, two}, {own})
    assert dict(container.marks) == (
        {}
        # Version 1 knew no marks: whatever it enrolled was enrolled as a whole.
        if version == 1
        else {
            one: Marks("Prctl", 93000000, (Range(0x7E0000000000, 0x7E0000100000),)),
            two: Marks("Madvise", 94000000, (Range(0x7F0000000000, 0x7F0000200000),)),
        }
    )
    assert read.owner == "1b7e8d52-3c44-4a0b-9f1e-5d6c7b8a9f00"
    assert read.baseline.files["pages_to_scan"] == SavedValue(100, 812)
    assert (read.run_is_ours, read.yielded, read.generation) == (False, set(), 7)
    assert read.told is not None
    assert read.told["policy"]["namespaces"] == ["amber"]
    # What it writes the next agent reads.
    save(tmp_path / "state.json", read)
    assert load(tmp_path / "state.json", data["bootID"]) == read


def test_a_reboot_clears_it(tmp_path: Path) -> None:
    """After a reboot no process of old lives and ksmd's values are the kernel's again."""
    path = tmp_path / "state.json"
    save(path, State("one", owner="u"))
    assert load(path, "one").owner == "u"
    assert load(path, "two") == State("two")


def test_none_yet(tmp_path: Path) -> None:
    """The first agent of a node starts with nothing."""
    assert load(tmp_path / "state.json", "one") == State("one")
    assert not State("one").touched


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 3, "bootID": "one"}', '{"version": 1, "bootID": "one"}', "null"],
)
def test_damaged(tmp_path: Path, text: str) -> None:
    """What cannot be understood may hide another owner's processes: the agent refuses to run."""
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(StateError, match="cannot be understood"):
        load(path, "one")


def test_an_unwritable_directory_is_named(tmp_path: Path) -> None:
    """Without a record nothing may be enrolled, and the message says where it was to be."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"file/state\.json cannot be written"):
        save(tmp_path / "file" / "state.json", State("one"))


def test_saving_leaves_no_litter(tmp_path: Path) -> None:
    """/run is memory: temporary files must not pile up there."""
    path = tmp_path / "state.json"
    for generation in range(3):
        save(path, State("one", generation=generation))
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_killed_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was written of it by then, the record is the one before, and no litter grows."""
    path = tmp_path / "state.json"
    save(path, State("one", owner="u"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _killed)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                save(path, State("one", owner="v"))
            assert load(path, "one").owner == "u"
    save(path, State("one", owner="w"))
    assert load(path, "one").owner == "w"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def _killed(_: Path, __: Path) -> None:
    raise KeyboardInterrupt


PARENTS = {30: 20, 20: 10, 10: 1, 40: 1, 50: 30}


@pytest.mark.parametrize(
    ("pid", "enrolled", "by_ranges", "own", "ours"),
    [
        (30, {10}, set(), set(), True),
        (30, {10}, set(), {20}, False),
        (30, {20}, set(), {10}, True),
        (40, {10}, set(), set(), True),
        (40, set(), set(), {10}, False),
        (30, {10}, {10}, set(), False),
    ],
    ids=[
        "descendant of an enrolled one",
        "a nearer ancestor asked by itself",
        "a nearer ancestor was enrolled",
        "orphan in a container of ours",
        "orphan where somebody asked by itself",
        "the ancestor was enrolled by ranges, which is not inherited as a whole",
    ],
)
def test_whose_a_mergeable_process_is(
    pid: int, enrolled: set[int], by_ranges: set[int], own: set[int], *, ours: bool
) -> None:
    """Descendants of enrolled processes must be released with them; a program's own choice not."""
    container = Container(
        "u",
        "/c",
        {Process(one, 1) for one in enrolled},
        {Process(one, 1) for one in own},
        MarksOnRecord({Process(one, 1): Marks("Madvise", 5) for one in by_ranges}),
    )
    assert is_ours(Process(pid, 1), container, PARENTS.get) is ours
