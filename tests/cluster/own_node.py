"""A Node of an API server without a kubelet: its pods run on this machine and check themselves."""

import os
import secrets
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from cluster.api import KSM_NODES, NODES, Api, ApiFailure
from cluster.command import condition, wait_until
from kernel.conftest import Cgroup
from kernel.population.injection import Member
from kernel.population.kinds import STOP, Kind
from ksm_operator.kernel import find_memory_hierarchy, pids, walk
from support import kernel

END_SECONDS: Final = 120
POLICIES: Final = ("amber", "blue")
_NAMESPACES: Final = "/api/v1/namespaces"


@dataclass
class Pod:
    """One container that runs in a cgroup as a kubelet makes it.

    Attributes:
        namespace: of the object.
        name: likewise.
        uid: likewise.
        cgroup: of the pod.
        container: of the container in it.
        stop: the file that ends its programs.
        members: its programs.
        ends: when it is meant to end, monotonic seconds.
    """

    namespace: str
    name: str
    uid: str
    cgroup: Cgroup
    container: Cgroup
    stop: Path
    ends: float
    members: list[Member] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Of the object."""
        return f"{_NAMESPACES}/{self.namespace}/pods/{self.name}"

    def pids(self) -> Iterator[int]:
        """Every process in it."""
        for directory in walk(self.container.directory):
            yield from pids(directory)

    def deviations(self) -> list[str]:
        """What its programs noticed; they have ended."""
        found = [(one.kind.name, one.verdict()) for one in self.members]
        return [f"{name}: {what}" for name, what in found if what is not None]


class OwnNode:
    """A context: a Node, its KSMNode and its pods; all of it goes at the end.

    Attributes:
        name: of the Node and the KSMNode.
        namespaces: what there is for each of two policies.
        pods: those that go on running.
        ended: how many have come to their end and were judged.
        deviations: what programs noticed that they should not.
    """

    def __init__(self, api: Api, folder: Path) -> None:
        self.name = f"own-{secrets.token_hex(3)}"
        self.namespaces = [f"{policy}-{secrets.token_hex(2)}" for policy in POLICIES]
        self.pods: list[Pod] = []
        self.ended = 0
        self.deviations: list[str] = []
        self._api = api
        self._hierarchy = find_memory_hierarchy()
        self._folder = folder
        self._leaving: list[Pod] = []
        self._number = 0
        self._generation = 0
        self._uids = {policy: str(uuid.uuid4()) for policy in POLICIES}

    def __enter__(self) -> Self:
        own = self._hierarchy.directory(os.getpid())
        # On version 2 a cgroup with processes of its own has no limits for cgroups below it.
        beside = self._hierarchy.version == 2 and own != self._hierarchy.mount
        above = own.parent if beside else own
        self._cgroup = Cgroup(above / f"ksm-test-{self.name}", self._hierarchy.version)
        self._cgroup.directory.mkdir()
        self._kubepods = self._cgroup.child("kubepods")
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name}}
        self._api.create(NODES, node)
        for name in self.namespaces:
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self._api.create(_NAMESPACES, namespace)
            account = {"apiVersion": "v1", "kind": "ServiceAccount"}
            path = f"{_NAMESPACES}/{name}/serviceaccounts"
            self._api.create(path, {**account, "metadata": {"name": "default"}})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cgroup.remove()
        for pod in self.running:
            self._api.delete(f"{pod.path}?gracePeriodSeconds=0")
            for member in pod.members:
                member.popen.wait()
        self._api.delete(f"{KSM_NODES}/{self.name}")
        self._api.delete(f"{NODES}/{self.name}")

    @property
    def running(self) -> list[Pod]:
        """Pods with programs, also those that are about to end."""
        return [*self.pods, *self._leaving]

    def run(self, namespace: str, kinds: Sequence[Kind], seconds: float = float("inf")) -> Pod:
        """Start a pod with one program of each of these kinds."""
        self._number += 1
        name = f"pod-{self._number}"
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {}},
            "spec": {
                "nodeName": self.name,
                "automountServiceAccountToken": False,
                "containers": [{"name": "main", "image": "none"}],
            },
        }
        made = self._api.create(f"{_NAMESPACES}/{namespace}/pods", manifest)
        uid = made["metadata"]["uid"]
        cgroup = self._kubepods.child(f"pod{uid}")
        container = cgroup.child(uuid.uuid4().hex * 2)
        ends = time.monotonic() + seconds
        pod = Pod(namespace, name, uid, cgroup, container, self._folder / f"stop-{name}", ends)
        self.pods.append(pod)
        for kind in kinds:
            self._start(pod, kind)
        return pod

    def _start(self, pod: Pod, kind: Kind) -> None:
        command = [word.replace(STOP, str(pod.stop)) for word in kind.commands[0]]
        output = self._folder / f"{pod.name}-{len(pod.members)}"
        procs = pod.container.directory / "cgroup.procs"
        with output.open("wb") as file:
            popen = subprocess.Popen(
                ["sh", "-c", f'echo $$ > "{procs}"; exec "$@"', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        pod.members.append(Member(kind, command, popen, output))

    def end(self, pod: Pod) -> None:
        """Ask a pod to end; its programs take their time."""
        pod.stop.touch()
        self.pods.remove(pod)
        self._leaving.append(pod)

    def judge(self) -> None:
        """Hear what the programs say that have ended; their cgroups and objects go, as ever."""
        for pod in [one for one in self._leaving if _is_over(one)]:
            self.deviations += pod.deviations()
            pod.cgroup.remove()
            self._leaving.remove(pod)
            self._api.delete(f"{pod.path}?gracePeriodSeconds=0")
            pod.stop.unlink()
            self.ended += 1

    def end_all(self) -> None:
        """End every pod and judge it."""
        for pod in list(self.pods):
            self.end(pod)

        def nobody_is_left() -> bool:
            self.judge()
            assert not self._leaving, [one.members for one in self._leaving]
            return True

        wait_until(nobody_is_left, END_SECONDS, "every program has come to its end")

    def label(self, pod: Pod, value: str | None) -> None:
        """Let a pod's owner say whether it may merge."""
        labels = {"ksm-operator.dev/merge": value}
        self._api.merge(pod.path, {"metadata": {"labels": labels}})

    def container(self, pod: Pod) -> str:
        """The container's cgroup as the agent names it."""
        return self._hierarchy.name(pod.container.directory)

    def uid(self, policy: str) -> str:
        """The uid of a policy of that name."""
        return self._uids[policy]

    def grant(
        self,
        policy: str,
        namespace: str,
        state: str = "Merging",
        *,
        huge_pages: str = "Auto",
        **ksmd: Any,
    ) -> int:
        """Write into the KSMNode that a policy has the node, and selects a namespace.

        Args:
            policy: which.
            namespace: the one that it selects.
            state: what the node is to do.
            huge_pages: as in a KSMPolicy.
            ksmd: its fields there.

        Returns:
            The generation of that.
        """
        self._generation += 1
        uid, number = self._uids[policy], self._generation
        return self._tell(
            {
                "owner": {"name": policy, "uid": uid, "generation": number},
                "grantedAt": "2026-01-01T00:00:00Z",
                "desiredState": state,
                "policy": {
                    "namespaces": [namespace],
                    "enrollment": {"hugePages": huge_pages},
                    "ksmd": ksmd,
                    "releaseReservePercent": 0,
                },
            }
        )

    def release(self) -> int:
        """Write into the KSMNode that everything is to be given back."""
        return self._tell({"desiredState": "Released"})

    def _tell(self, spec: dict[str, Any]) -> int:
        while True:
            try:
                return int(self._write(spec)["metadata"]["generation"])
            except ApiFailure as failure:
                # The agent writes its status meanwhile.
                if failure.code != HTTPStatus.CONFLICT:
                    raise

    def _write(self, spec: dict[str, Any]) -> dict[str, Any]:
        found = self.reported()
        if found is not None:
            return self._api.replace(f"{KSM_NODES}/{self.name}", {**found, "spec": spec})
        node = {"apiVersion": "ksm-operator.dev/v1alpha1", "kind": "KSMNode"}
        return self._api.create(KSM_NODES, {**node, "metadata": {"name": self.name}, "spec": spec})

    def give_back(self, settings: dict[str, bytes]) -> None:
        """Have everything released, and every program say how it is.

        Args:
            settings: the values under /sys/kernel/mm/ksm that have to be there afterwards.
        """
        generation = self.release()
        wait_until(
            lambda: self.says("Released", generation)["status"] == "True",
            END_SECONDS,
            "the node is given back",
        )
        assert kernel.settings() == settings
        self.end_all()
        assert not self.deviations

    def forget(self) -> None:
        """Delete the KSMNode, as somebody does by hand."""
        self._api.delete(f"{KSM_NODES}/{self.name}")

    def reported(self) -> dict[str, Any] | None:
        """The KSMNode as the agent has answered it."""
        return self._api.find(f"{KSM_NODES}/{self.name}")

    def says(self, kind: str, generation: int) -> dict[str, Any]:
        """A condition, which must be about this generation."""
        found = condition(self.reported(), kind)
        assert found["observedGeneration"] == generation, found
        return found


def _is_over(pod: Pod) -> bool:
    return all(member.popen.poll() is not None for member in pod.members)
