"""Which pod and container a cgroup belongs to, from its path alone.

Shapes of kubelet's cgroupfs and systemd drivers with containerd, CRI-O and docker, on version 1
and 2, below whatever the kubelet was told to put in front (``--cgroup-root``). The outermost pod
counts: a runtime nested in a pod is part of that pod.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_HEX: Final = tuple(f"[0-9a-f]{{{digits}}}" for digits in (8, 4, 4, 4, 12))
_UID: Final = "-".join(_HEX)
_UID_IN_SLICE: Final = "_".join(_HEX)
"""systemd reads a dash in a slice's name as a parent, so the kubelet writes underscores."""
_CONFIG_HASH: Final = r"[0-9a-f]{32}"
"""Static pods: kubelet names the cgroup after the manifest's hash."""

_POD: Final = re.compile(rf"^pod(?P<uid>{_UID}|{_CONFIG_HASH})$")
_POD_SLICE: Final = re.compile(
    r"^(?:[^:]*-)?kubepods(?:-besteffort|-burstable)?"
    rf"-pod(?P<uid>{_UID_IN_SLICE}|{_CONFIG_HASH})\.slice"
    # A runtime that does not know systemd's notation keeps "slice:prefix:id" as one directory.
    r"(?::(?P<prefix>[a-z-]+):(?P<id>[0-9a-f]{64}))?$"
)
_STATIC: Final = re.compile(_CONFIG_HASH)
_CONTAINER: Final = re.compile(
    # Kata Containers puts its virtual machine beside the containers that are not there.
    r"^(?:(?:cri-containerd|crio|docker|libpod)-|kata_)?(?P<id>[0-9a-f]{64})(?:\.scope)?$"
)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a cgroup is.

    Attributes:
        pod_uid: the pod's uid; the hash of its manifest for a static pod.
        container_id: the container's id; None for the pod's own cgroup and for helpers of the
            runtime in it (conmon).
        container_path: the cgroup path of the container itself; the pod's where there is none.
    """

    pod_uid: str
    container_id: str | None
    container_path: str


def is_static(uid: str) -> bool:
    """Tell whether a uid is the hash of a static pod's manifest; none of the API server's is."""
    return _STATIC.fullmatch(uid) is not None


def place(path: str) -> Placement | None:
    """Return the pod and container of a cgroup path; None for a cgroup that is in no pod."""
    parts = path.strip("/").split("/")
    in_kubepods = False
    for index, part in enumerate(parts):
        match = _POD_SLICE.match(part) or (_POD.match(part) if in_kubepods else None)
        if match is None:
            in_kubepods = in_kubepods or part == "kubepods"
            continue
        uid = match["uid"].replace("_", "-")
        joined = match.groupdict().get("id")
        if joined is not None:
            return Placement(uid, joined, "/" + "/".join(parts[: index + 1]))
        below = parts[index + 1] if index + 1 < len(parts) else ""
        container = _CONTAINER.match(below)
        if container is None:
            return Placement(uid, None, "/" + "/".join(parts[: index + 1]))
        return Placement(uid, container["id"], "/" + "/".join(parts[: index + 2]))
    return None
