"""The lean types and the schema's types are the same objects."""

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator import api
from ksm_operator.agent import wire

if TYPE_CHECKING:
    from pydantic import BaseModel

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=20)
KEYS = st.from_regex(r"\A[a-z]{1,8}\Z")
NUMBERS = st.integers(0, 2**53)
OWNER = {"name": "web", "uid": "u", "generation": 1}

REQUIREMENTS = st.builds(
    api.SelectorRequirement,
    key=KEYS,
    operator=st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    values=st.none() | st.lists(KEYS, max_size=6),
)
SELECTORS = st.builds(
    api.LabelSelector,
    match_labels=st.none() | st.dictionaries(KEYS, KEYS, max_size=6),
    match_expressions=st.none() | st.lists(REQUIREMENTS, max_size=3),
)
KSMD = st.builds(
    api.KsmdOnNode,
    tuning=st.sampled_from(["Auto", "Advisor", "Fixed"]),
    cpu_limit_milli_cpu=st.integers(1, 100_000),
    pages_to_scan=st.none() | st.integers(1, 1_000_000),
    sleep_milliseconds=st.none() | st.integers(1, 3_600_000),
    start_below_available_percent=st.integers(0, 100),
    merge_across_numa_nodes=st.none() | st.booleans(),
    max_page_sharing=st.none() | st.integers(2, 2**31 - 1),
    use_zero_pages=st.none() | st.booleans(),
    smart_scan=st.none() | st.booleans(),
)
SPECS = st.builds(
    api.KSMNodeSpec,
    owner=st.none() | st.builds(api.Owner, name=KEYS, uid=KEYS, generation=NUMBERS),
    granted_at=st.none() | st.just("2026-11-23T06:00:00Z"),
    desired_state=st.sampled_from(["Merging", "Observing", "Paused", "Released"]),
    policy=st.none()
    | st.builds(
        api.NodePolicy,
        namespace_selector=st.none() | SELECTORS,
        namespaces=st.none() | st.lists(KEYS, max_size=32),
        pod_selector=st.none() | SELECTORS,
        enrollment=st.builds(
            api.EnrollmentOnNode,
            running_pods=st.sampled_from(["Attach", "Skip"]),
            consent=st.sampled_from(["OptOut", "OptIn"]),
            huge_pages=st.sampled_from(["Auto", "Preserve", "Split"]),
        ),
        isolation=st.builds(
            api.IsolationOnNode, on_foreign_merging=st.sampled_from(["Pause", "Report"])
        ),
        ksmd=KSMD,
        release_reserve_percent=st.integers(0, 100),
    ),
)
COUNTS = st.builds(
    wire.Counts,
    matched=NUMBERS,
    merging=NUMBERS,
    skipped=st.lists(st.builds(wire.SkippedCount, reason=KEYS, count=NUMBERS), max_size=8).map(
        tuple
    ),
)
STATUSES = st.builds(
    wire.NodeStatus,
    observed_generation=st.none() | NUMBERS,
    owner=st.none() | st.builds(wire.ReportedOwner, uid=KEYS),
    boot_id=st.none() | KEYS,
    agent_version=st.none() | TEXT,
    kernel=st.none()
    | st.builds(
        wire.KernelStatus,
        release=TEXT,
        method=st.sampled_from(["Prctl", "Madvise", "None"]),
        features=st.lists(KEYS, max_size=8).map(tuple),
    ),
    pods=st.none() | COUNTS,
    containers=st.none() | COUNTS,
    processes=st.none() | COUNTS,
    memory=st.none()
    | st.builds(
        wire.NodeMemory,
        saved_bytes=NUMBERS,
        profit_bytes=st.none() | st.integers(-(2**53), 2**53),
        phantom_bytes=st.none() | NUMBERS,
        available_bytes=st.none() | NUMBERS,
        estimated_saved_bytes=st.none() | NUMBERS,
        estimated_saved_error_bytes=st.none() | NUMBERS,
    ),
    ksmd_milli_cpu=st.none() | NUMBERS,
    baseline=st.none() | st.dictionaries(KEYS, KEYS, max_size=24),
    foreign_mergers=st.lists(
        st.builds(
            wire.ForeignMerger,
            pid=NUMBERS,
            command=KEYS,
            pod_uid=st.none() | KEYS,
            pod=st.none() | KEYS,
        ),
        max_size=5,
    ).map(tuple),
    foreign_merger_count=NUMBERS,
    conditions=st.lists(
        st.builds(
            wire.Condition,
            type=KEYS,
            status=st.sampled_from(["True", "False", "Unknown"]),
            reason=KEYS,
            message=TEXT,
            observed_generation=st.none() | NUMBERS,
            last_transition_time=st.just("2026-11-23T06:00:00Z"),
        ),
        max_size=4,
    ).map(tuple),
)


@given(SPECS)
def test_spec_is_read_whole(spec: api.KSMNodeSpec) -> None:
    """A field that the agent's type misses would be a field that nobody obeys."""
    sent = spec.to_api()
    read = wire.to_json_types(msgspec.convert(sent, wire.NodeSpec))
    assert api.KSMNodeSpec.model_validate(read) == spec


@given(STATUSES)
def test_status_is_written_whole(status: wire.NodeStatus) -> None:
    """What the agent writes is what the schema describes, name by name."""
    sent = wire.to_json_types(status)
    assert api.KSMNodeStatus.model_validate(sent).to_api() == sent


def test_same_fields() -> None:
    """A field added to one side only is found here and not in a cluster."""
    pairs: list[tuple[type[wire.Wire], type[BaseModel]]] = [
        (wire.NodeSpec, api.KSMNodeSpec),
        (wire.NodePolicy, api.NodePolicy),
        (wire.Ksmd, api.KsmdOnNode),
        (wire.Enrollment, api.EnrollmentOnNode),
        (wire.Isolation, api.IsolationOnNode),
        (wire.Owner, api.Owner),
        (wire.NodeStatus, api.KSMNodeStatus),
        (wire.NodeMemory, api.NodeMemory),
        (wire.Counts, api.ContainerCounts),
        (wire.Condition, api.NodeCondition),
        (wire.KernelStatus, api.KernelStatus),
        (wire.ForeignMerger, api.ForeignMerger),
    ]
    for lean, model in pairs:
        names = {field.encode_name for field in msgspec.structs.fields(lean)}
        aliases = {field.alias or name for name, field in model.model_fields.items()}
        assert names == aliases, lean.__name__


@given(SELECTORS, st.dictionaries(KEYS, KEYS, max_size=4))
def test_selectors_agree(selector: api.LabelSelector, labels: dict[str, str]) -> None:
    """Controller and agent must not disagree on whom a selector means."""
    lean = msgspec.convert(selector.to_api(), wire.LabelSelector)
    assert lean.admits(labels) == selector.admits(labels)
    assert lean.to_query() == selector.to_query()
    assert lean.empty == selector.empty


def test_unknown_fields_are_ignored() -> None:
    """A newer controller's fields must not stop an older agent from reading what it knows."""
    data = b'{"metadata":{"name":"n","new":1},"spec":{"desiredState":"Paused","later":{}},"x":[]}'
    node = msgspec.json.decode(data, type=wire.Node)
    assert node.spec.desired_state == "Paused"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"desiredState": "Hibernating"}, "desiredState Hibernating"),
        ({"policy": {"ksmd": {"tuning": "Oracle"}}}, "tuning Oracle"),
        ({"policy": {"enrollment": {"consent": "Ask"}}}, "consent Ask"),
        ({"policy": {"isolation": {"onForeignMerging": "Evict"}}}, "onForeignMerging Evict"),
        ({"policy": {"enrollment": {"runningPods": "Ask"}}}, "runningPods Ask"),
        ({"policy": {"enrollment": {"hugePages": "Ask"}}}, "hugePages Ask"),
        (
            {"policy": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}}},
            "operator Gt",
        ),
        ({"desiredState": "Merging", "owner": OWNER}, "Merging without a policy"),
        ({"desiredState": "Paused", "owner": OWNER}, "Paused without a policy"),
        ({"desiredState": "Observing", "policy": {}}, "Observing without an owner"),
    ],
)
def test_unknown_values_are_named(change: dict[str, Any], named: str) -> None:
    """What is unknown or missing means: change nothing, and say which one it was."""
    assert wire.unknown_terms(msgspec.convert(change, wire.NodeSpec)) == [named]


def test_known_values_are_obeyed() -> None:
    """Nothing is held back where everything is understood."""
    assert wire.unknown_terms(wire.NodeSpec()) == []
    assert wire.unknown_terms(wire.NodeSpec(policy=wire.NodePolicy())) == []
    whole = {"desiredState": "Merging", "owner": OWNER, "policy": {}}
    assert wire.unknown_terms(msgspec.convert(whole, wire.NodeSpec)) == []
