"""Cgroup paths of real runtimes, and who they belong to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.placement import Placement, place

UID = "2f1c9a0e-6f5b-4c43-9a11-1d9d5e0f8f10"
UNDERSCORES = UID.replace("-", "_")
HASH = "0123456789abcdef0123456789abcdef"
ID = "ab" * 32
NESTED = "cd" * 32

CONTAINERS = {
    "cgroupfs, containerd or docker, best effort": f"/kubepods/besteffort/pod{UID}/{ID}",
    "cgroupfs, burstable": f"/kubepods/burstable/pod{UID}/{ID}",
    "cgroupfs, guaranteed": f"/kubepods/pod{UID}/{ID}",
    "cgroupfs below a root of the kubelet's": "/ksm-operator-local"
    f"/kubepods/besteffort/pod{UID}/{ID}",
    "cgroupfs, CRI-O": f"/kubepods/besteffort/pod{UID}/crio-{ID}",
    "systemd, containerd": "/kubepods.slice/kubepods-besteffort.slice/"
    f"kubepods-besteffort-pod{UNDERSCORES}.slice/cri-containerd-{ID}.scope",
    "systemd, guaranteed": f"/kubepods.slice/kubepods-pod{UNDERSCORES}.slice/"
    f"cri-containerd-{ID}.scope",
    "systemd, CRI-O": "/kubepods.slice/kubepods-burstable.slice/"
    f"kubepods-burstable-pod{UNDERSCORES}.slice/crio-{ID}.scope",
    "systemd, docker": "/kubepods.slice/kubepods-burstable.slice/"
    f"kubepods-burstable-pod{UNDERSCORES}.slice/docker-{ID}.scope",
    "systemd, kind": "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
    f"kubelet-kubepods-besteffort-pod{UNDERSCORES}.slice/cri-containerd-{ID}.scope",
    "cgroupfs, Kata Containers' virtual machine": f"/kubepods/burstable/pod{UID}/kata_{ID}",
    "kubelet with systemd, runtime without": "/system.slice/containerd.service/"
    f"kubepods-besteffort-pod{UNDERSCORES}.slice:cri-containerd:{ID}",
}


@pytest.mark.parametrize("path", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_container(path: str) -> None:
    """Every shape in use names the same pod and container, or pods would go unnoticed."""
    assert place(path) == Placement(UID, ID, path)


@pytest.mark.parametrize("path", CONTAINERS.values(), ids=CONTAINERS.keys())
@pytest.mark.parametrize(
    "below", ["/init.scope", f"/docker/{NESTED}", f"/kubepods/pod{UID}/{NESTED}"]
)
def test_inside_a_container(path: str, below: str) -> None:
    """What a container makes for itself stays that container's, a nested cluster included."""
    assert place(path + below) == Placement(UID, ID, path)


@pytest.mark.parametrize(
    "path",
    [
        f"/kubepods/besteffort/pod{UID}",
        f"/kubepods/besteffort/pod{UID}/crio-conmon-{ID}",
        f"/kubepods/besteffort/pod{UID}/helper",
        f"/kubepods.slice/kubepods-pod{UNDERSCORES}.slice/crio-conmon-{ID}.scope",
    ],
)
def test_pod_without_container(path: str) -> None:
    """The pod's own cgroup and the runtime's monitor are no containers."""
    placement = place(path)
    assert placement is not None
    assert placement.pod_uid == UID
    assert placement.container_id is None


def test_static_pod() -> None:
    """Kubelet names a static pod's cgroup after its manifest's hash, which has no dashes."""
    assert place(f"/kubepods/burstable/pod{HASH}/{ID}") == Placement(
        HASH, ID, f"/kubepods/burstable/pod{HASH}/{ID}"
    )


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/system.slice/containerd.service",
        "/user.slice/user-1000.slice/session-1.scope",
        f"/docker/{ID}",
        "/kubepods",
        "/kubepods/besteffort",
        f"/pod{UID}/{ID}",
        "/kubepods/besteffort/podinfo/" + ID,
        f"/kubepods/besteffort/pod{UID.upper()}/{ID}",
    ],
)
def test_no_pod(path: str) -> None:
    """A process of the host must never be taken for a pod's."""
    assert place(path) is None


@given(st.text(alphabet="/abcdefpod0123456789-_.:kubs", max_size=200))
def test_any_path(path: str) -> None:
    """A cgroup may have any name: none may raise, and a container's path is part of its own."""
    placement = place(path)
    if placement is not None:
        assert ("/" + path.strip("/")).startswith(placement.container_path)
