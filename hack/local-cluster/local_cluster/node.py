"""A node: containerd, kubelet and kube-proxy in a network namespace of their own."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from local_cluster import certificates, cgroups, components, layout, mounts
from local_cluster.certificates import Kubeconfig
from local_cluster.components import program
from local_cluster.layout import Node
from local_cluster.prerequisites import may_lower_oom_score
from local_cluster.processes import Service

PAUSE_IMAGE = "localhost/ksm-operator-pause:1"


def containerd_root(node: Node) -> Path:
    """Where the node's containerd stores images and what containers write."""
    return node.state / "containerd"


def containerd_config(
    node: Node, *, snapshotter: str, restrict_oom_score: bool, systemd_cgroup: bool
) -> str:
    """Render the configuration of containerd (format 3).

    Args:
        node: The node.
        snapshotter: `overlayfs`, or `native` where overlay mounts are refused.
        restrict_oom_score: Do not let containers ask for a lower OOM score than ours: the kernel
            refuses that without CAP_SYS_RESOURCE, and no sandbox would start.
        systemd_cgroup: Let systemd make the containers' cgroups.
    """
    cni = components.folder(components.COMPONENTS["cni"])
    return f"""\
version = 3
root = '{containerd_root(node)}'
state = '{node.run}/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri']

[grpc]
address = '{node.containerd_socket}'

[ttrpc]
address = '{node.containerd_socket}.ttrpc'

[plugins.'io.containerd.cri.v1.images']
snapshotter = '{snapshotter}'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{PAUSE_IMAGE}'

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = {str(restrict_oom_score).lower()}
netns_mounts_under_state_dir = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{cni}']
conf_dir = '{node.state}/cni'

[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = 'runc'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '{program("runc")}'
Root = '{node.run}/runc'
SystemdCgroup = {str(systemd_cgroup).lower()}
"""


def cni_config(node: Node) -> dict[str, object]:
    """The pods' network: a bridge in the node's namespace."""
    return {
        "cniVersion": "1.0.0",
        "name": layout.NAME,
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(node.run / "addresses"),
                    "ranges": [[{"subnet": node.pod_prefix}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def runs_everywhere() -> bool:
    """Whether every CPU of this machine is ours to use."""
    return len(os.sched_getaffinity(0)) == os.cpu_count()


def cpu_assignments(node: Node) -> Path:
    """Where the kubelet keeps who has which CPU; one of another policy would not start with it."""
    return node.state / "kubelet" / "cpu_manager_state"


def kubelet_config(node: Node) -> dict[str, object]:
    """The kubelet's configuration file."""
    identity = certificates.kubelet(node)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificates.AUTHORITY)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(identity.certificate),
        "tlsPrivateKeyFile": str(identity.key),
        "containerRuntimeEndpoint": f"unix://{node.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.NAME}",
        # As where latency counts: a pod of the class Guaranteed may have whole CPUs for itself. Not
        # where this program may not run on all of them, since the kubelet gives away any. One CPU,
        # this share of it rounded up, is everybody's for ever.
        "cpuManagerPolicy": "static" if runs_everywhere() else "none",
        "kubeReserved": {"cpu": "10m"},
        # The default on machines that boot with cgroup v1 is to refuse them.
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        # There is no cluster DNS; an empty file keeps the machine's name servers out of pods.
        "resolvConf": str(node.state / "resolv.conf"),
        "podLogsDir": str(node.state / "pod-logs"),
        "volumePluginDir": str(node.state / "volume-plugins"),
        # Images come by `load` alone, so they must never be collected, and a nearly full
        # disk of a developer is no reason to evict pods.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
            "imagefs.inodesFree": "1%",
        },
        "registerWithTaints": [],
        "enableServer": True,
        "serializeImagePulls": False,
    }


def proxy_config(node: Node) -> dict[str, object]:
    """kube-proxy's configuration file; machine-wide connection limits stay as they are."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": node.address,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "hostnameOverride": node.name,
        "clientConnection": {"kubeconfig": str(_kubeconfig_file(node, "kube-proxy"))},
        "clusterCIDR": layout.POD_PREFIX,
        "mode": "iptables",
        "oomScoreAdj": 0,
        "iptables": {"localhostNodePorts": False},
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def _kubeconfig_file(node: Node, user: str) -> Path:
    return node.state / f"{user}.kubeconfig"


def containerd(node: Node) -> Service:
    """Give the containerd of this node."""
    return Service(
        f"containerd-{node.name}",
        (str(program("containerd")), "--config", str(node.state / "containerd.toml")),
        namespace=node.namespace,
        search_path=(
            components.folder(components.COMPONENTS["containerd"]),
            components.folder(components.COMPONENTS["runc"]),
        ),
    )


def kubelet(node: Node) -> Service:
    """Give the kubelet of this node."""
    return Service(
        f"kubelet-{node.name}",
        (
            str(program("kubelet")),
            f"--config={node.state / 'kubelet.json'}",
            f"--kubeconfig={_kubeconfig_file(node, 'kubelet')}",
            f"--root-dir={node.state / 'kubelet'}",
            f"--cert-dir={node.state / 'kubelet-certificates'}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
        ),
        namespace=node.namespace,
    )


def proxy(node: Node) -> Service:
    """Give the kube-proxy of this node."""
    return Service(
        f"kube-proxy-{node.name}",
        (str(program("kube-proxy")), f"--config={node.state / 'kube-proxy.json'}"),
        namespace=node.namespace,
    )


def services(node: Node) -> list[Service]:
    """What runs on the node, in the order it starts."""
    return [containerd(node), kubelet(node), proxy(node)]


def configuration(node: Node, containerd: str, kubelet: Mapping[str, object]) -> dict[Path, str]:
    """What the node's programs read at their start, by file.

    Args:
        node: The node.
        containerd: The configuration of its containerd.
        kubelet: The configuration of its kubelet.
    """
    documents = {
        "cni/10-pods.conflist": cni_config(node),
        "kubelet.json": kubelet,
        "kube-proxy.json": proxy_config(node),
    }
    kubeconfigs = (
        Kubeconfig(certificates.kubelet(node), _kubeconfig_file(node, "kubelet")),
        Kubeconfig(certificates.PROXY, _kubeconfig_file(node, "kube-proxy")),
    )
    return {
        node.state / "resolv.conf": "",
        node.state / "containerd.toml": containerd,
        **{
            node.state / name: json.dumps(document, indent=2) + "\n"
            for name, document in documents.items()
        },
        **{one.file: one.render() for one in kubeconfigs},
    }


def write_configuration(node: Node) -> None:
    """Write what the node's programs read at their start, for root only."""
    for folder in (node.state / "cni", node.state / "volume-plugins", node.run):
        folder.mkdir(parents=True, exist_ok=True)
    containerd = containerd_config(
        node,
        snapshotter="overlayfs" if has_overlay(node.state) else "native",
        restrict_oom_score=not may_lower_oom_score(),
        systemd_cgroup=False,
    )
    for file, text in configuration(node, containerd, kubelet_config(node)).items():
        file.touch(mode=0o600)
        file.write_text(text)


def has_overlay(folder: Path) -> bool:
    """Whether an overlay can be mounted on this file system; not so on an overlay itself."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        parts = {name: Path(work) / name for name in ("lower", "upper", "work", "merged")}
        for part in parts.values():
            part.mkdir()
        options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
        answer = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, str(parts["merged"])],
            capture_output=True,
            check=False,
        )
        mounts.unmount_below(parts["merged"])
        return answer.returncode == 0


def pod_members() -> set[int]:
    """The processes of pods."""
    return cgroups.members("kubepods")
