"""What the agent knows of the cluster and of its node's containers, and what follows for each."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ksm_operator.agent.selection import (
    UNKNOWN,
    Namespaces,
    Outcome,
    Verdict,
    judge_container,
    judge_pod,
    namespace_admitted,
    pod_cgroup_uid,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ksm_operator.agent.placement import Placement
    from ksm_operator.agent.wire import NodePolicy, ObjectMeta, Pod


class View:
    """Pods, namespaces and containers, kept current by the news.

    Attributes:
        containers: what runs on the node, by cgroup path.
        pods: what is known of them, by the uid in their cgroups' names. One that two claim is left
            out, so that nothing is done to its containers.
        namespaces_listed: whether the present selector's namespaces have arrived.
        pods_are_listed: whether the node's pods have arrived.
        verdicts: what becomes of each container, by cgroup path, since the last `judge`.
        pod_verdicts: what becomes of each pod, by uid, since the last `judge`.
    """

    def __init__(self) -> None:
        self.containers: dict[str, Placement] = {}
        self.pods: dict[str, Pod] = {}
        self.namespaces_listed = False
        self.pods_are_listed = False
        self.verdicts: dict[str, Verdict] = {}
        self.pod_verdicts: dict[str, Verdict] = {}
        self._known: dict[str, Pod] = {}
        self._gone: set[str] = set()
        self._selected: dict[str, Mapping[str, str]] = {}
        self._outside: set[str] = set()
        self._missing: set[str] = set()
        self._empty: dict[str, float] = {}

    def pods_listed(self, pods: Iterable[Pod]) -> None:
        """Take a complete list; a pod that is not in it stays known while it has containers."""
        listed = {pod.uid: pod for pod in pods}
        self._gone = self._known.keys() - listed.keys()
        self._known.update(listed)
        self.pods_are_listed = True
        self._find_cgroups()

    def pod_changed(self, pod: Pod) -> None:
        """Take what a pod is now."""
        self._known[pod.uid] = pod
        self._gone.discard(pod.uid)
        self._find_cgroups()

    def pod_deleted(self, pod: ObjectMeta) -> None:
        """Remember that the server knows the pod no more; its containers may still run."""
        if pod.uid in self._known:
            self._gone.add(pod.uid)
            self._find_cgroups()

    def _find_cgroups(self) -> None:
        """Find out whose cgroups are named by which uid: those of the living, then of the gone."""
        claims: dict[str, list[Pod]] = {}
        for pod in self._known.values():
            claims.setdefault(pod_cgroup_uid(pod), []).append(pod)
        self.pods = {}
        for uid, pods in claims.items():
            claimants = [pod for pod in pods if pod.uid not in self._gone] or pods
            if len(claimants) == 1:
                self.pods[uid] = claimants[0]

    def _forget_gone(self) -> None:
        """Forget pods that the server knows no more and that have no containers any more."""
        running = {placement.pod_uid for placement in self.containers.values()}
        over = {uid for uid in self._gone if pod_cgroup_uid(self._known[uid]) not in running}
        if over:
            self._known = {uid: pod for uid, pod in self._known.items() if uid not in over}
            self._gone -= over
            self._find_cgroups()

    def namespaces_reset(self) -> None:
        """Forget all namespaces: the selector is another one."""
        self.namespaces_listed = False
        self._selected.clear()
        self._outside.clear()
        self._missing.clear()

    def namespaces_arrived(self, namespaces: Iterable[ObjectMeta]) -> None:
        """Take a complete list of the selected namespaces."""
        self._selected = {one.name: one.labels for one in namespaces}
        self._outside -= set(self._selected)
        self._missing.clear()
        self.namespaces_listed = True

    def namespace_changed(self, namespace: ObjectMeta) -> None:
        """Take a selected namespace."""
        self._selected[namespace.name] = namespace.labels
        self._outside.discard(namespace.name)
        self._missing.discard(namespace.name)

    def namespace_deleted(self, namespace: ObjectMeta) -> None:
        """A namespace is not selected any more, for whatever reason."""
        self._selected.pop(namespace.name, None)

    def namespace_looked_up(
        self, name: str, labels: Mapping[str, str] | None, policy: NodePolicy, own: str
    ) -> None:
        """Take the answer to a question about a namespace that is not in the list."""
        if name in self._selected:
            return
        if labels is None:
            self._missing.add(name)
        elif namespace_admitted(name, labels, policy, own):
            self._selected[name] = labels
        else:
            self._outside.add(name)

    def drop_vanished(self, path: str) -> None:
        """A cgroup is gone."""
        self.containers.pop(path, None)
        self.verdicts.pop(path, None)
        self._empty.pop(path, None)

    def judge(
        self,
        policy: NodePolicy,
        own_namespace: str,
        granted_at: float | None,
        started_at: Callable[[str], float | None],
        enrolled_pods: set[str],
    ) -> set[str]:
        """Decide on every pod and container anew.

        Args:
            policy: the node's policy.
            own_namespace: the operator's own namespace.
            granted_at: since when the owner has the node.
            started_at: when the first process of a container started, by cgroup path; None while
                it is empty.
            enrolled_pods: uids of pods with enrolled processes.

        Returns:
            Names of namespaces to ask for: not in the list, but with enrolled pods here.
        """
        self._forget_gone()
        self._empty = {path: at for path, at in self._empty.items() if path in self.containers}
        namespaces = Namespaces(self._selected, frozenset(self._outside))
        self.pod_verdicts = {
            uid: judge_pod(pod, namespaces, policy, own_namespace) for uid, pod in self.pods.items()
        }
        self.verdicts = {}
        for path, placement in self.containers.items():
            verdict = self.pod_verdicts.get(placement.pod_uid, UNKNOWN)
            if policy.enrollment.running_pods == "Skip" and verdict.outcome is Outcome.MERGE:
                started = self._started_at(path, granted_at, started_at)
                verdict = judge_container(verdict, started, granted_at, policy)
            self.verdicts[path] = verdict
        if not self.namespaces_listed:
            return set()
        known = set(self._selected) | self._outside | self._missing
        return {
            pod.namespace
            for uid, pod in self.pods.items()
            if uid in enrolled_pods and pod.namespace not in known
        }

    def _started_at(
        self, path: str, granted_at: float | None, started_at: Callable[[str], float | None]
    ) -> float | None:
        """Return when a container started; None if it was seen empty since the node was granted.

        The first to live there may be older: a runtime makes it elsewhere and moves it in, and the
        grant was written by another clock. None of it may undo what was begun at its first sight.
        """
        if granted_at is None or self._empty.get(path) == granted_at:
            return None
        started = started_at(path)
        if started is None:
            self._empty[path] = granted_at
        return started

    def forget_verdicts(self) -> None:
        """Nothing is selected: the node has no policy."""
        self.verdicts = {}
        self.pod_verdicts = {}

    def to_merge(self) -> list[str]:
        """Return the containers whose processes shall be enrolled."""
        return [path for path, one in self.verdicts.items() if one.outcome is Outcome.MERGE]

    def domain(self) -> set[str]:
        """Return the containers that are one security domain, with those of it left alone."""
        return {
            path
            for path, one in self.verdicts.items()
            if one.outcome is Outcome.MERGE or one.of_domain
        }

    def asked(self) -> frozenset[str]:
        """Return those whose pods ask for it by a label, of their own or of their namespace."""
        return frozenset(path for path, one in self.verdicts.items() if one.asked)

    def pod_counts(self, merging: set[str]) -> tuple[int, int, Counter[str]]:
        """Count pods that run something here; finished ones have no cgroups any more.

        Args:
            merging: uids of pods with enrolled processes.

        Returns:
            Selected, merging, and skipped by reason.
        """
        by_container: dict[str, Verdict] = {}
        running = {placement.pod_uid for placement in self.containers.values()}
        for path, placement in self.containers.items():
            verdict = self.verdicts.get(path, UNKNOWN)
            if verdict.outcome is Outcome.SKIP:
                by_container.setdefault(placement.pod_uid, verdict)
        matched, skipped = 0, Counter[str]()
        for uid, verdict in self.pod_verdicts.items():
            if uid not in running or verdict.outcome not in (Outcome.MERGE, Outcome.SKIP):
                continue
            matched += 1
            if uid in merging:
                continue
            why = verdict if verdict.outcome is Outcome.SKIP else by_container.get(uid)
            if why is not None:
                skipped[why.reason] += 1
        return matched, len(merging & set(self.pod_verdicts)), skipped

    def container_counts(self) -> tuple[int, Counter[str]]:
        """Count containers: selected, and skipped by reason."""
        selected = [
            one for one in self.verdicts.values() if one.outcome in (Outcome.MERGE, Outcome.SKIP)
        ]
        return len(selected), Counter(one.reason for one in selected if one.reason)
