"""Which pods are left alone unless they ask, from pods as an API server sends them."""

import json
from typing import Any

import msgspec
import pytest

from ksm_operator.agent.watcher import decode_pod


def decoded(**spec: Any) -> str:
    """Why a pod with this spec is left alone."""
    whole = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "p", "namespace": "web", "uid": "u", "managedFields": [{"f:spec": 1}]},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}], **spec},
        "status": {"phase": "Running", "containerStatuses": [{"name": "c", "ready": True}]},
    }
    return decode_pod(msgspec.Raw(json.dumps(whole).encode())).default_skip


def container(**limits: str) -> dict[str, Any]:
    """A container with limits; `hugepages_2Mi` is `hugepages-2Mi`."""
    named = {name.replace("_", "-"): value for name, value in limits.items()}
    return {"name": "c", "image": "i", "resources": {"limits": named, "requests": named}}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({}, ""),
        ({"priorityClassName": "system-node-critical", "priority": 2000001000}, "SystemCritical"),
        ({"priorityClassName": "system-cluster-critical"}, "SystemCritical"),
        ({"priority": 2000000000}, "SystemCritical"),
        ({"priorityClassName": "important", "priority": 1000000000}, ""),
        ({"priority": -5}, ""),
        ({"runtimeClassName": "kata"}, "Sandboxed"),
        ({"runtimeClassName": "kata-qemu-snp"}, "Sandboxed"),
        ({"runtimeClassName": "gvisor"}, "Sandboxed"),
        ({"runtimeClassName": "runsc"}, "Sandboxed"),
        ({"runtimeClassName": "nvidia"}, ""),
        ({"runtimeClassName": "katalog"}, ""),
        ({"containers": [container(memory="1Gi", cpu="2")]}, ""),
        ({"containers": [container(memory="1Gi"), container(hugepages_2Mi="8Mi")]}, "HugetlbPages"),
        ({"initContainers": [container(hugepages_1Gi="1Gi")]}, "HugetlbPages"),
        ({"containers": [container(hugepages_2Mi="0"), container(hugepages_1Gi="0Gi")]}, ""),
        ({"containers": None, "initContainers": None, "resources": None, "priority": None}, ""),
        ({"containers": [{"name": "c", "resources": {"limits": None}}]}, ""),
        ({"resources": {"limits": {"hugepages-2Mi": "8Mi"}}}, "HugetlbPages"),
    ],
)
def test_by_what_a_spec_says(spec: dict[str, Any], reason: str) -> None:
    """One of them that is missed costs milliseconds where somebody paid for not waiting."""
    assert decoded(**spec) == reason


def test_what_selection_needs_is_kept() -> None:
    """The lean decoding of whole pods must not lose what metadata alone had."""
    raw = {
        "metadata": {
            "name": "p",
            "namespace": "web",
            "uid": "u",
            "resourceVersion": "7",
            "labels": {"app": "shop"},
            "annotations": {"kubernetes.io/config.mirror": "h"},
        }
    }
    pod = decode_pod(msgspec.Raw(json.dumps(raw).encode()))
    assert pod.default_skip == ""
    assert (pod.name, pod.namespace, pod.uid, pod.resource_version) == ("p", "web", "u", "7")
    assert pod.labels == {"app": "shop"}
    assert pod.annotations == {"kubernetes.io/config.mirror": "h"}


@pytest.mark.parametrize(
    ("status", "reported"),
    [
        ({"status": {"phase": "Running", "startTime": "2026-11-23T06:00:00Z"}}, True),
        ({"status": {"phase": "Pending", "qosClass": "BestEffort"}}, False),
        ({"status": None}, False),
        ({}, False),
    ],
)
def test_what_the_kubelet_reported(status: dict[str, Any], reported: bool) -> None:  # noqa: FBT001 - a column of the table
    """Who makes up a mirror pod must not be believed, and the kubelet's own must be."""
    raw = json.dumps({"metadata": {"name": "p", "uid": "u"}, **status}).encode()
    assert decode_pod(msgspec.Raw(raw)).reported is reported
