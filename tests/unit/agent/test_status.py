"""When a status is written, and what its conditions say."""

from dataclasses import replace

import msgspec
import pytest

from ksm_operator.agent import status as quiet
from ksm_operator.agent.foreign import Candidate
from ksm_operator.agent.guard import describe
from ksm_operator.agent.knobs import Troubles
from ksm_operator.agent.managers import COMMANDS, who_manages
from ksm_operator.agent.observation import Observed
from ksm_operator.agent.releasing import Left
from ksm_operator.agent.report import Facts, judge, run_is_theirs
from ksm_operator.agent.wire import ForeignMerger, NodeMemory, NodeStatus
from ksm_operator.api import NodeReason
from ksm_operator.kernel import Estimate, Process
from ksm_operator.kernel.guard_plan import Exposed
from support.simulated_agents import NOTHING

MIB = 1 << 20
NOW = 1_800_000_000.0
FACTS = replace(NOTHING, desired="Merging", touched=True, processes=3, containers=2)
MERGER = ForeignMerger(pid=9, command="qemu")
UNIT = f"/system.slice/{'u' * 300}.service"
EVERY_MANAGER = [
    *(who_manages(1, [], {command}) for command in (*COMMANDS, "")),
    *(
        who_manages(0, [Candidate(Process(4_000_000, 1), name, UNIT, None)] * 9, set())
        for name in ("c" * 15, "qemu-system-x86_")
    ),
]
STUCK = Left(Process(7, 1), "/kubepods/pod/c", 32 << 20, "NoHeadroom", since=100.0)


def status_of(facts: Facts, saved: int = 0, **fields: object) -> NodeStatus:
    """A status as the agent would build it."""
    conditions = quiet.conditions(judge(facts), (), 1, NOW)
    status = NodeStatus(conditions=conditions, memory=NodeMemory(saved_bytes=saved))
    return msgspec.structs.replace(status, **fields)


def by_type(facts: Facts) -> dict[str, tuple[bool | None, str]]:
    """Status and reason of every condition."""
    return {one.type: (one.status, one.reason) for one in judge(facts)}


@pytest.mark.parametrize(
    ("change", "ready"),
    [
        ({}, (True, "Merging")),
        ({"settled": False}, (False, "Enrolling")),
        ({"desired": "Paused"}, (True, "Paused")),
        ({"leaving": 2}, (False, "Releasing")),
        ({"left": [STUCK]}, (False, "Blocked")),
        ({"former": "old"}, (False, "Releasing")),
        ({"manager": "ksmtuned"}, (False, "ExternallyManaged")),
        ({"unknown": ["tuning X"]}, (False, "Blocked")),
        ({"obstacle": ("Unsupported", "no KSM")}, (False, "Unsupported")),
        ({"obstacle": ("SysfsReadOnly", "ro")}, (False, "Blocked")),
        ({"desired": "Observing"}, (False, "Releasing")),
        ({"desired": "Observing", "touched": False}, (True, "Observing")),
        ({"desired": "Released"}, (False, "Releasing")),
        ({"desired": "Released", "touched": False}, (True, "Released")),
    ],
)
def test_ready(change: dict[str, object], ready: tuple[bool, str]) -> None:
    """Each state of a node has its own word, because people and the controller act on it."""
    assert by_type(replace(FACTS, **change))["Ready"] == ready  # type: ignore[arg-type]


def test_what_was_observed_is_said_in_words() -> None:
    """The figure that a careful administrator waits for, and how far to trust it."""
    told = Observed(Estimate(847 * MIB, 12 * MIB), 1400 * MIB, 24, None, 0.0, 1.0)
    facts = replace(FACTS, desired="Observing", touched=False, observed=told)
    assert judge(facts)[0].message == (
        "Merging would give back about 847 MiB, give or take 12 MiB, of 1400 MiB that "
        "24 processes hold."
    )
    assert "Nothing is merged" in judge(replace(facts, observed=None))[0].message


@pytest.mark.parametrize(
    ("reason", "after", "blocks"),
    [
        ("NoHeadroom", 0.0, True),
        ("Failed", 0.0, True),
        ("Uninterruptible", 0.1, False),
        ("Uninterruptible", 10.0, True),
    ],
)
def test_a_busy_thread_blocks_nothing_at_once(reason: str, after: float, *, blocks: bool) -> None:
    """A node must not turn unready for a process that is released a moment later."""
    assert replace(STUCK, reason=reason).blocks(100.0 + after) is blocks


def test_released_is_said_only_when_all_is_given_back() -> None:
    """The controller hands a node over on this condition alone."""
    assert by_type(FACTS)["Released"] == (False, "NotReleased")
    assert by_type(replace(FACTS, touched=False))["Released"] == (True, "Released")


@pytest.mark.parametrize(
    ("change", "degraded"),
    [
        ({}, (False, "AsExpected")),
        ({"yielded": ["run"]}, (True, "ExternallyModified")),
        ({"unrestored": ["run"]}, (True, "ExternallyModified")),
        ({"troubles": Troubles(pending=("max_page_sharing",))}, (True, "PendingRelease")),
        ({"troubles": Troubles(read_only="ro")}, (True, "SysfsReadOnly")),
        ({"troubles": Troubles(missing=("smart_scan",))}, (True, "Unsupported")),
        ({"obstacle": ("SysfsReadOnly", "ro")}, (True, "SysfsReadOnly")),
        ({"helper_deaths": 3, "yielded": ["run"]}, (True, "HelperFailing")),
        ({"debt": "too much is merged", "yielded": ["run"]}, (True, "MergeDebt")),
    ],
)
def test_degraded(change: dict[str, object], degraded: tuple[bool, str]) -> None:
    """What cannot be done as asked is named, one reason at a time."""
    assert by_type(replace(FACTS, **change))["Degraded"] == degraded  # type: ignore[arg-type]


def test_ready_names_who_lacks_room_because_of_others() -> None:
    """Nothing is wrong with the node; a person can raise a limit."""
    lacking = [Exposed(f"/kubepods/pod/container-of-{one}", 9, 9 * (one != "c")) for one in "bac"]
    facts = replace(FACTS, exposed=describe(lacking))
    (ready,) = [one for one in judge(facts) if one.type == "Ready"]
    assert (ready.status, ready.reason) == (True, "Merging")
    assert "2 cgroups, first cgroup …d/container-of-a, may lack room" in ready.message
    assert len(ready.message) < 200
    assert "first" not in describe(lacking[:1])
    assert not describe(lacking[2:])


def test_foreign_mergers_break_isolation() -> None:
    """Whoever shares the pool from outside of the policy is named."""
    facts = replace(FACTS, foreign=[MERGER], foreign_count=1)
    (isolated,) = [one for one in judge(facts) if one.type == "Isolated"]
    assert (isolated.status, isolated.reason) == (False, "ForeignMergers")
    assert "host process qemu (pid 9)" in isolated.message
    assert "ksmd goes on" in isolated.message
    pod = msgspec.structs.replace(MERGER, pod="shop/till-0", pod_uid="u" * 36)
    facts = replace(FACTS, foreign=[pod, MERGER], foreign_count=2, held=True)
    (isolated,) = [one for one in judge(facts) if one.type == "Isolated"]
    assert "pod shop/till-0: qemu (pid 9) and 1 more" in isolated.message
    assert "ksmd stands still" in isolated.message


@pytest.mark.parametrize(
    ("change", "isolated"),
    [
        ({}, (True, "NoForeignMergers")),
        ({"looked": False}, (None, "Pending")),
        ({"obstacle": ("Unsupported", "no KSM")}, (None, "Unsupported")),
        ({"obstacle": ("SysfsReadOnly", "ro")}, (None, "Blocked")),
    ],
)
def test_nobody_is_alone_before_somebody_has_looked(
    change: dict[str, object], isolated: tuple[bool | None, str]
) -> None:
    """An agent that starts beside an intruder must not say first that there is none."""
    assert by_type(replace(FACTS, **change))["Isolated"] == isolated  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"held": True, "run": 0}, "ksmd stands still meanwhile"),
        ({"held": True, "run": 0, "run_is_theirs": True}, "ksmd stands still meanwhile"),
        ({"held": True, "run": 1, "run_is_theirs": True}, "somebody else has ksmd scan"),
        ({"held": True, "run": 1}, "ksmd goes on"),
        ({"held": False, "run": 0}, "ksmd goes on"),
    ],
)
def test_a_standstill_is_claimed_of_a_ksmd_that_stands_still(
    change: dict[str, object], words: str
) -> None:
    """An administrator's 1 is respected, and a release may need scans: neither is a pause."""
    facts = replace(FACTS, foreign=[MERGER], foreign_count=1, **change)  # type: ignore[arg-type]
    (isolated,) = [one for one in judge(facts) if one.type == "Isolated"]
    assert words in isolated.message


def test_whose_word_it_is_that_ksmd_runs() -> None:
    """A node that we never wrote to runs by somebody else's, as one that was taken from us."""
    assert run_is_theirs((), ())
    assert run_is_theirs(("run",), ("run",))
    assert not run_is_theirs(("sleep_millisecs",), ("run",))


def test_reasons_are_of_the_api() -> None:
    """Programs compare reasons: the agent invents none."""
    known = {reason.value for reason in NodeReason}
    cases = [
        FACTS,
        replace(FACTS, obstacle=("SysfsReadOnly", "x")),
        replace(FACTS, obstacle=("Unsupported", "x")),
        replace(FACTS, manager="ksmtuned", yielded=["run"], foreign=[MERGER], foreign_count=1),
        replace(FACTS, desired="Released", touched=False),
        replace(FACTS, left=[STUCK], troubles=Troubles(missing=("x",))),
        replace(FACTS, helper_deaths=3),
        replace(FACTS, looked=False),
    ]
    assert {one.reason for facts in cases for one in judge(facts)} <= known


def test_blocked_says_who_and_how_much() -> None:
    """A person must be able to act on it."""
    (ready, *_) = judge(replace(FACTS, left=[STUCK]))
    for part in ("32 MiB", "NoHeadroom", "pid 7", "memory limit"):
        assert part in ready.message


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ("/kubepods/pod/c", "which lacks 12 MiB"),
        ("/kubepods/pod", "cgroup /kubepods/pod lacks 12 MiB"),
        ("node", "the node lacks 12 MiB"),
        (None, ": raise"),
    ],
)
def test_blocked_names_what_lacks_room(level: str | None, words: str) -> None:
    """The limit to raise may be the pod's and not the container's."""
    stuck = replace(STUCK, level=level, lacking_bytes=12 << 20)
    assert words in judge(replace(FACTS, left=[stuck]))[0].message


def test_no_message_is_cut() -> None:
    """What to do stands at the end of a message: it must fit."""
    pod = "n" * 40 + "/" + "p" * 39
    mergers = [ForeignMerger(pid=4_000_000 + one, command="c" * 15, pod=pod) for one in range(5)]
    cases = [
        replace(FACTS, yielded=["advisor_max_pages_to_scan"] * 9),
        *(replace(FACTS, manager=words) for words in EVERY_MANAGER),
        replace(FACTS, former="f" * 36, foreign=mergers, foreign_count=1000, held=True),
        replace(
            FACTS,
            left=[
                replace(
                    STUCK,
                    path="/kubepods/" + "p" * 300,
                    level="/" + "p" * 300,
                    lacking_bytes=9 << 40,
                )
            ]
            * 5000,
        ),
        replace(FACTS, troubles=Troubles(pending=("merge_across_nodes", "max_page_sharing"))),
        replace(FACTS, helper_deaths=100_000),
        replace(FACTS, desired="Released"),
        replace(FACTS, desired="Paused", touched=False),
    ]
    messages = [one.message for facts in cases for one in judge(facts)]
    assert all(len(message) <= quiet.LONGEST_MESSAGE for message in messages)


def test_messages_fit_the_schema() -> None:
    """The API server refuses a status with one message too long, and then nothing is reported."""
    facts = replace(FACTS, obstacle=("Unsupported", "x" * 1000))
    assert all(len(one.message) <= 200 for one in status_of(facts).conditions)


def test_transition_time_changes_with_the_status_only() -> None:
    """It tells since when something is so, not since when it was last looked at."""
    first = quiet.conditions(judge(FACTS), (), 1, NOW)
    later = quiet.conditions(judge(replace(FACTS, processes=4)), first, 2, NOW + 60)
    assert later[0].last_transition_time == first[0].last_transition_time
    assert later[0].observed_generation == 2
    paused = quiet.conditions(judge(replace(FACTS, manager="ksmtuned")), later, 2, NOW + 120)
    assert paused[0].last_transition_time == quiet.timestamp(NOW + 120)


def test_first_status_and_conditions_at_once() -> None:
    """People wait for conditions."""
    status = status_of(FACTS)
    assert quiet.due(None, status, NOW)
    written = quiet.record(None, status, NOW)
    assert not quiet.due(written, status, NOW + 1)
    assert quiet.due(written, status_of(replace(FACTS, manager="ksmtuned")), NOW + 0.1)
    assert quiet.due(written, msgspec.structs.replace(status, observed_generation=2), NOW + 0.1)


def test_counts_are_gathered() -> None:
    """Enrolling a hundred pods is a few writes, not a hundred."""
    written = quiet.record(None, status_of(FACTS), NOW)
    status = status_of(FACTS, pods=quiet.counts(2, 2, {}))
    assert not quiet.due(written, status, NOW + 1)
    assert quiet.due(written, status, NOW + quiet.COUNT_SECONDS)


def test_a_server_that_starts_workers_is_no_news() -> None:
    """Its processes come and go all the time: thousands of agents would write every few seconds."""
    before = status_of(FACTS, processes=quiet.counts(100, 100, {}))
    written = quiet.record(None, before, NOW)
    for count in (101, 120):
        now = status_of(replace(FACTS, processes=count), processes=quiet.counts(count, count, {}))
        assert not quiet.due(written, now, NOW + quiet.FIGURE_SECONDS - 1)
        assert quiet.due(written, now, NOW + quiet.FIGURE_SECONDS) is (count == 120)
    skipped = status_of(FACTS, processes=quiet.counts(101, 100, {"RealTime": 1}))
    assert not quiet.due(written, skipped, NOW + quiet.COUNT_SECONDS)
    assert quiet.due(written, skipped, NOW + quiet.FIGURE_SECONDS)


def test_what_ksmd_held_before_is_gathered_too() -> None:
    """The governor's first writes add to it one after the other, while a node begins."""
    written = quiet.record(None, status_of(FACTS, baseline={"run": "0"}), NOW)
    more = status_of(FACTS, baseline={"run": "0", "smart_scan": "1"})
    assert not quiet.due(written, more, NOW + 1)
    assert quiet.due(written, more, NOW + quiet.COUNT_SECONDS)


def test_a_saving_takes_off_a_few_times_only() -> None:
    """Where thousands of nodes begin at once, all of them take off at once."""
    now = NOW
    written = quiet.record(None, status_of(FACTS, saved=0), now)
    writes = []
    for second in range(120):
        status = status_of(FACTS, saved=(2 << 20) * 2**second)
        if quiet.due(written, status, now + second):
            writes.append(second)
            written = quiet.record(written, status, now + second)
    assert writes == [5, 15, 35, 75]


def test_figures_wait_a_minute_and_must_move() -> None:
    """Thousands of agents must not write because a number wobbles."""
    written = quiet.record(None, status_of(FACTS, saved=1 << 30), NOW)
    moved = status_of(FACTS, saved=2 << 30)
    wobbled = status_of(FACTS, saved=(1 << 30) + (10 << 20))
    assert not quiet.due(written, moved, NOW + 59)
    assert quiet.due(written, moved, NOW + 60)
    assert not quiet.due(written, wobbled, NOW + 300)
    assert quiet.due(written, wobbled, NOW + 720)


def test_a_saving_that_takes_off_does_not_wait() -> None:
    """Whoever has just applied a policy looks at the saving now, not in a minute."""
    written = quiet.record(None, status_of(FACTS, saved=0), NOW)
    assert not quiet.due(written, status_of(FACTS, saved=1 << 19), NOW + 30)
    grown = status_of(FACTS, saved=5 << 20)
    assert not quiet.due(written, grown, NOW + 1)
    assert quiet.due(written, grown, NOW + quiet.COUNT_SECONDS)
    written = quiet.record(written, grown, NOW + quiet.COUNT_SECONDS)
    assert not quiet.due(written, status_of(FACTS, saved=19 << 20), NOW + 30)
    assert quiet.due(written, status_of(FACTS, saved=21 << 20), NOW + 30)


def test_many_reasons_fit_the_schema() -> None:
    """The list of reasons is bounded, and what does not fit is still counted."""
    result = quiet.counts(20, 0, {f"R{index:02}": index + 1 for index in range(20)})
    assert len(result.skipped) == 8
    assert sum(one.count for one in result.skipped) == sum(range(1, 21))
    assert result.skipped[0].reason == "R19"


def test_timestamps() -> None:
    """Grant times come from the API server in this form and no other."""
    assert quiet.parse_timestamp(quiet.timestamp(NOW)) == NOW
    assert quiet.parse_timestamp("2027-01-15T08:00:00.123456Z") is not None
    assert quiet.parse_timestamp(None) is None
    assert quiet.parse_timestamp("yesterday") is None


def test_figures_in_messages_wait_and_words_do_not() -> None:
    """A node in debt says another figure every second; that a pod lacks room has to be heard."""
    debt = [status_of(replace(FACTS, debt=f"{one} GiB is merged, room is 3")) for one in (1.1, 1.2)]
    written = quiet.record(None, debt[0], NOW)
    assert not quiet.due(written, debt[1], NOW + quiet.FIGURE_SECONDS - 1)
    assert quiet.due(written, debt[1], NOW + quiet.FIGURE_SECONDS)
    written = quiet.record(None, status_of(FACTS), NOW)
    lacks = status_of(replace(FACTS, exposed="cgroup a may lack room"))
    assert quiet.due(written, lacks, NOW + quiet.COUNT_SECONDS)
