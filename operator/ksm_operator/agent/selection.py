"""Whose memory merges: pods and their namespaces against the node's policy. Pure.

Absence is never a reason to leave: a pod or namespace of which the agent knows nothing (yet, or
any more) is `UNKNOWN`, which enrols nothing and releases nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.placement import is_static

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ksm_operator.agent.wire import NodePolicy, Pod

MERGE_LABEL: Final = "ksm-operator.dev/merge"
CONFIG_MIRROR: Final = "kubernetes.io/config.mirror"
"""The kubelet gives it to the mirror of a static pod, with the hash of the manifest. Nobody can
change it later, nor give it to a pod that has none, but whoever creates a pod can set it."""
NAME_LABEL: Final = "kubernetes.io/metadata.name"
"""The API server keeps this label equal to the name of every namespace (Kubernetes 1.22)."""
RESERVED_PREFIXES: Final = ("kube-", "openshift-")


class Outcome(Enum):
    """What becomes of a pod or container."""

    MERGE = "merge"
    SKIP = "skip"
    """Selected, but left alone for a reason that is counted."""
    OUTSIDE = "outside"
    """Known, and not part of the domain."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One decision.

    Attributes:
        outcome: what becomes of it.
        reason: one PascalCase word where it is skipped, else empty.
        asked: whether a label asks for merging, so that nothing is left alone by default.
        of_domain: whether it is one of the security domain though it is skipped: it was selected,
            and nobody who owns it has refused.
    """

    outcome: Outcome
    reason: str = ""
    asked: bool = False
    of_domain: bool = False

    @property
    def leaves(self) -> bool:
        """Whether something enrolled must be released by this decision."""
        return self.outcome in (Outcome.SKIP, Outcome.OUTSIDE)


@dataclass(frozen=True, slots=True)
class Namespaces:
    """What is known of namespaces.

    Attributes:
        selected: labels by name of those that the API server's selector returned.
        outside: names of which the API server said that they exist and do not match.
    """

    selected: Mapping[str, Mapping[str, str]]
    outside: frozenset[str] = frozenset()


MERGE: Final = Verdict(Outcome.MERGE)
ASKED: Final = Verdict(Outcome.MERGE, asked=True)
OUTSIDE: Final = Verdict(Outcome.OUTSIDE)
UNKNOWN: Final = Verdict(Outcome.UNKNOWN)


def namespace_query(policy: NodePolicy) -> str:
    """Return the label selector that the API server evaluates; empty selects no namespace."""
    if policy.namespaces:
        return f"{NAME_LABEL} in ({','.join(sorted(policy.namespaces))})"
    if policy.namespace_selector is not None and not policy.namespace_selector.empty:
        return policy.namespace_selector.to_query()
    return ""


def namespace_admitted(
    name: str, labels: Mapping[str, str], policy: NodePolicy, own_namespace: str
) -> bool:
    """Tell whether a namespace belongs to the domain.

    Args:
        name: the namespace's name.
        labels: its labels.
        policy: the node's policy.
        own_namespace: the operator's own namespace, selected only when named.
    """
    if policy.namespaces:
        return name in policy.namespaces
    if name.startswith(RESERVED_PREFIXES) or name == own_namespace:
        return False
    selector = policy.namespace_selector
    return selector is not None and not selector.empty and selector.admits(dict(labels))


def consent(pod: Mapping[str, str], namespace: Mapping[str, str]) -> str:
    """Return the merge label that counts, the pod's before its namespace's; empty for none."""
    return pod.get(MERGE_LABEL) or namespace.get(MERGE_LABEL) or ""


def judge_pod(  # noqa: PLR0911 - one line per answer
    pod: Pod | None, namespaces: Namespaces, policy: NodePolicy, own_namespace: str
) -> Verdict:
    """Decide on one pod.

    Args:
        pod: what is known of it; None if the API server has not told it.
        namespaces: what is known of namespaces.
        policy: the node's policy.
        own_namespace: the operator's own namespace.
    """
    if pod is None:
        return UNKNOWN
    labels = namespaces.selected.get(pod.namespace)
    if labels is None:
        return OUTSIDE if pod.namespace in namespaces.outside else UNKNOWN
    if not namespace_admitted(pod.namespace, labels, policy, own_namespace):
        return OUTSIDE
    if policy.pod_selector is not None and not policy.pod_selector.admits(pod.labels):
        return OUTSIDE
    label = consent(pod.labels, labels)
    if label == "disabled":
        return Verdict(Outcome.SKIP, "OptedOut")
    if label == "enabled":
        return ASKED
    if policy.enrollment.consent == "OptIn":
        return Verdict(Outcome.SKIP, "NotOptedIn")
    if pod.default_skip:
        return Verdict(Outcome.SKIP, pod.default_skip, of_domain=True)
    return MERGE


def judge_container(
    pod: Verdict, started_at: float | None, granted_at: float | None, policy: NodePolicy
) -> Verdict:
    """Decide on one container of a judged pod.

    Args:
        pod: the pod's verdict.
        started_at: when the container's first process started, seconds since the epoch; None if
            nothing had run in it after the grant: it is for what is to come then.
        granted_at: since when the owner has the node.
        policy: the node's policy.
    """
    if pod.outcome is not Outcome.MERGE or policy.enrollment.running_pods != "Skip":
        return pod
    if granted_at is None:
        return UNKNOWN
    if started_at is not None and started_at < granted_at:
        return Verdict(Outcome.SKIP, "StartedBeforeGrant", of_domain=True)
    return pod


def pod_cgroup_uid(pod: Pod) -> str:
    """Return the uid that names the pod's cgroups: that of its manifest for a static pod.

    What an author writes about a pod never makes it another one: the kubelet reports on a mirror
    only where it has the static pod of that name, and deletes any other.
    """
    manifest = pod.annotations.get(CONFIG_MIRROR, "")
    return manifest if pod.reported and is_static(manifest) else pod.uid
