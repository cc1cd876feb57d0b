"""Bad policies, each refused by the real API server with words that tell what to write instead.

Everything is a server-side dry run: validation and defaults are the real ones, nothing is kept.
"""

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from cluster.command import Kubectl

if TYPE_CHECKING:
    from subprocess import CompletedProcess

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator_installed")]

SELECTOR: Final = {"namespaceSelector": {"matchLabels": {"ksm": "web"}}}
LONG: Final = "v" * 63
FIXED: Final = {"tuning": "Fixed", "pagesToScan": 1000, "sleepMilliseconds": 20}


def submit(kubectl: Kubectl, spec: dict[str, Any]) -> "CompletedProcess[str]":
    """Apply a policy as a user does, with kubectl's strict validation."""
    policy = {
        "apiVersion": "ksm-operator.dev/v1alpha1",
        "kind": "KSMPolicy",
        "metadata": {"name": "validation-test"},
        "spec": spec,
    }
    arguments = ("apply", "--dry-run=server", "-o", "json", "-f", "-")
    return kubectl(*arguments, input=json.dumps(policy), check=False)


def ksmd(**fields: Any) -> dict[str, Any]:
    """A policy with these fields of spec.ksmd."""
    return {**SELECTOR, "ksmd": fields}


def rollout(limit: int | str) -> dict[str, Any]:
    """A policy that begins on so many nodes at once."""
    return {**SELECTOR, "rollout": {"maxConcurrentNodes": limit}}


def pods(**fields: Any) -> dict[str, Any]:
    """A policy with this podSelector."""
    return {**SELECTOR, "podSelector": fields}


def expression(**fields: Any) -> dict[str, Any]:
    """A policy whose podSelector is one expression."""
    return pods(matchExpressions=[{"key": "app", **fields}])


WHOM = "write exactly one of spec.namespaceSelector"
EMPTY = "an empty namespaceSelector would put every namespace into one security domain"
QUANTITY = "write for example 200m (a fifth of a CPU) or 1"
SHARE = "write for example 10 or 10%; 100% takes all at once"
NUMBERS = "ksmd.tuning Fixed needs its numbers: write ksmd.pagesToScan and ksmd.sleepMilliseconds"
NO_NUMBERS = "are obeyed only with tuning: Fixed"
KEY = "a key is a label key such as app or example.com/team"
VALUE = "a value is a label value such as web"
NAME = "a namespace name has lower-case letters, digits and '-'"
TOO_LONG = "give what belongs together one label, and select that"

BAD: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "nobody is selected": ({}, WHOM),
    "both selectors": ({**SELECTOR, "namespaces": ["web"]}, WHOM),
    "empty selector": ({"namespaceSelector": {}}, EMPTY),
    "selector of nothing but null": ({"namespaceSelector": {"matchLabels": None}}, EMPTY),
    "selector of empty parts": (
        {"namespaceSelector": {"matchLabels": {}, "matchExpressions": []}},
        EMPTY,
    ),
    "no namespace": ({"namespaces": []}, "name at least one namespace, for example [web]"),
    "upper-case namespace": ({"namespaces": ["Web"]}, NAME),
    "namespace that is a path": ({"namespaces": ["../etc"]}, NAME),
    "namespaces too long": (
        {"namespaces": [f"{'n' * 60}{index}" for index in range(12)]},
        "label the namespaces and write a namespaceSelector instead",
    ),
    "percent of 101": (
        {**SELECTOR, "releaseReservePercent": 101},
        "write a whole number from 0 to 100, for example 10",
    ),
    "percent below 0": (
        ksmd(startBelowAvailablePercent=-1),
        "write a whole number from 0 to 100, for example 100",
    ),
    "priority out of range": ({**SELECTOR, "priority": 10**7}, "from -1000000 to 1000000"),
    "Fixed without numbers": (ksmd(tuning="Fixed"), NUMBERS),
    "Fixed with one number": (ksmd(tuning="Fixed", pagesToScan=10), NUMBERS),
    "numbers with Auto": (ksmd(pagesToScan=1000, sleepMilliseconds=20), NO_NUMBERS),
    "no pages": (ksmd(**{**FIXED, "pagesToScan": 0}), "from 1 to 1000000, for example 1000"),
    "no sleep": (ksmd(**{**FIXED, "sleepMilliseconds": 0}), "from 1 to 3600000, for example 20"),
    "no node at once": (rollout(0), SHARE),
    "no per cent at once": (rollout("0%"), SHARE),
    "more than all at once": (rollout("101%"), SHARE),
    "a share without per cent": (rollout("10"), SHARE),
    "CPU limit of 0": (ksmd(cpuLimit=0), QUANTITY),
    "CPU limit of zero as text": (ksmd(cpuLimit="0m"), QUANTITY),
    "CPU limit of lots": (ksmd(cpuLimit="lots"), QUANTITY),
    "CPU limit of -1": (ksmd(cpuLimit=-1), QUANTITY),
    "CPU limit of -1 as text": (ksmd(cpuLimit="-1"), QUANTITY),
    "page sharing of one": (ksmd(maxPageSharing=1), "write 2 or more, for example 256"),
    "bad key": (pods(matchLabels={"a b": "x"}), KEY),
    "bad prefix of a key": (pods(matchLabels={"a..b/c": "x"}), KEY),
    "key without a name": (pods(matchLabels={"example.com/": "x"}), KEY),
    "name of a key too long": (pods(matchLabels={"k" * 64: "x"}), KEY),
    "bad key in an expression": (
        pods(matchExpressions=[{"key": "a b", "operator": "Exists"}]),
        KEY,
    ),
    "bad value": (pods(matchLabels={"app": "b c"}), VALUE),
    "bad value in an expression": (expression(operator="In", values=["b c"]), VALUE),
    "In without values": (expression(operator="In"), "In and NotIn need a list of values"),
    "Exists with values": (
        expression(operator="Exists", values=["a"]),
        "Exists and DoesNotExist take none",
    ),
    "selector too long": (
        pods(matchLabels={f"key-{index}": LONG for index in range(6)}),
        TOO_LONG,
    ),
    "namespaceSelector with a bad key": ({"namespaceSelector": {"matchLabels": {"-": "x"}}}, KEY),
    "nodeSelector with a bad key": ({**SELECTOR, "nodeSelector": {"matchLabels": {"-": "x"}}}, KEY),
    # Not our words: the API server lists the choices itself.
    "mode in lower case": ({**SELECTOR, "mode": "enforce"}, '"Enforce", "Observe", "Paused"'),
    "unknown huge pages": (
        {**SELECTOR, "enrollment": {"hugePages": "Never"}},
        '"Auto", "Preserve", "Split"',
    ),
    "unknown isolation": (
        {**SELECTOR, "isolation": {"onForeignMerging": "Kill"}},
        '"Pause", "Report"',
    ),
    "Advisor below its floor": (ksmd(tuning="Advisor", cpuLimit="99m"), "a tenth of a CPU"),
    "unknown tuning": (ksmd(tuning="Fast"), '"Auto", "Advisor", "Fixed"'),
    "unknown operator": (expression(operator="Is"), '"In", "NotIn", "Exists", "DoesNotExist"'),
    "namespace twice": ({"namespaces": ["web", "web"]}, "Duplicate value"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_policy_is_refused_with_advice(kubectl: Kubectl, name: str) -> None:
    """A mistake must be told where it is made, and not be found out from a node's behaviour."""
    spec, words = BAD[name]
    done = submit(kubectl, spec)
    assert done.returncode != 0, f"accepted: {done.stdout}"
    assert words in done.stderr


@pytest.mark.parametrize(
    "spec",
    [
        {**SELECTOR, "nodeSelectr": {}},
        ksmd(cpuLimits="200m"),
        {**SELECTOR, "enrollment": {"runningPod": "Skip"}},
        {**SELECTOR, "mode": "Enforce", "rollout": {"maxConcurrentNode": 1}},
    ],
)
def test_unknown_field_is_refused(kubectl: Kubectl, spec: dict[str, Any]) -> None:
    """A misspelt field would silently have no effect; a field that nothing obeys is none."""
    done = submit(kubectl, spec)
    assert done.returncode != 0, f"accepted: {done.stdout}"
    assert "unknown field" in done.stderr


GOOD: Final[dict[str, dict[str, Any]]] = {
    "only the required field": SELECTOR,
    "namespaces by name": {"namespaces": ["web", "kube-system"]},
    "expressions alone": {
        "namespaceSelector": {"matchExpressions": [{"key": "ksm", "operator": "Exists"}]}
    },
    "empty podSelector": pods(),
    "empty label value": pods(matchLabels={"app": ""}),
    "longest name of a key": pods(matchLabels={f"example.com/{'k' * 63}": LONG}),
    "one node at once": rollout(1),
    "all nodes at once": rollout("100%"),
    "whole CPUs": ksmd(cpuLimit=2),
    "fractions as text": ksmd(cpuLimit="0.5"),
    "nanocores": ksmd(cpuLimit="1n"),
    "Fixed with its numbers": ksmd(**FIXED),
    "Advisor with what it needs": ksmd(tuning="Advisor", cpuLimit="100m"),
    "Advisor with a whole CPU": ksmd(tuning="Advisor", cpuLimit=1),
    "every optional value": ksmd(
        mergeAcrossNUMANodes=False, maxPageSharing=256, useZeroPages=True, smartScan=False
    ),
    "percents at their ends": {**ksmd(startBelowAvailablePercent=0), "releaseReservePercent": 100},
    "paused": {**SELECTOR, "mode": "Paused"},
    "consent asked for": {**SELECTOR, "enrollment": {"consent": "OptIn", "runningPods": "Skip"}},
}


@pytest.mark.parametrize("name", GOOD)
def test_good_policy_is_accepted(kubectl: Kubectl, name: str) -> None:
    """A rule that refuses what makes sense is worse than none."""
    done = submit(kubectl, GOOD[name])
    assert done.returncode == 0, done.stderr


def test_defaults_are_filled_in(kubectl: Kubectl) -> None:
    """`kubectl get -o yaml` must show what holds, not only what was written."""
    done = submit(kubectl, SELECTOR)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["spec"] == {
        **SELECTOR,
        "priority": 0,
        "mode": "Enforce",
        "enrollment": {"runningPods": "Attach", "consent": "OptOut", "hugePages": "Auto"},
        "isolation": {"onForeignMerging": "Pause"},
        "ksmd": {"tuning": "Auto", "cpuLimit": "200m", "startBelowAvailablePercent": 100},
        "rollout": {"maxConcurrentNodes": "10%"},
        "releaseReservePercent": 10,
    }


def test_every_field_explains_itself(kubectl: Kubectl) -> None:
    """`kubectl explain` is the documentation at hand."""
    for path in ("ksmpolicy.spec.ksmd.cpuLimit", "ksmp.spec.namespaceSelector", "ksmn.status"):
        assert "DESCRIPTION" in kubectl("explain", path).stdout
