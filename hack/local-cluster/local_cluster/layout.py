"""Where everything lives on this machine, and the addresses the cluster uses."""

import os
from dataclasses import dataclass
from pathlib import Path

MOST_CLUSTERS = 10


def instance(text: str) -> int:
    """The number of the cluster that a command is about; 0 is the one everybody means.

    Another one beside it (KSM_LOCAL_CLUSTER=1) has its own folders, addresses and links, so that a
    cluster can be taken down for a test while a person's stays up.
    """
    if not (text.isdecimal() and int(text) < MOST_CLUSTERS):
        raise SystemExit(
            f"error: KSM_LOCAL_CLUSTER={text}: it has to be a number from 0 to {MOST_CLUSTERS - 1}"
        )
    return int(text)


INSTANCE = instance(os.environ.get("KSM_LOCAL_CLUSTER") or "0")
_SUFFIX = str(INSTANCE or "")

NAME = f"ksm-operator-local{_SUFFIX}"
"""Of the cluster, of its folders and of its one subtree in every cgroup hierarchy."""

STATE = Path("/var/lib") / NAME
"""What the cluster stores: etcd's data, certificates, images, logs. Gone after `down`."""

RUN = Path("/run") / NAME
"""Sockets, the node's network namespace, values to put back. Gone after `down` or a reboot."""

LOCK = Path("/run/lock") / f"{NAME}.lock"
"""Held by every command that changes the cluster. Outside RUN, because `down` removes RUN."""

API_PORT = 6443
HOST_ADDRESS = f"10.99.{INSTANCE}.1"
NODE_PREFIX = f"10.99.{INSTANCE}.0/24"
SERVICE_PREFIX = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
POD_PREFIX = f"10.{244 + INSTANCE}.0.0/16"

HERE = Path(__file__).resolve().parent.parent
COMPONENTS = HERE / "components"
IMAGES = HERE / "images"


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
        name: The name that Kubernetes knows it by.
        address: Its address, in NODE_PREFIX.
        pod_prefix: The addresses of its pods, in POD_PREFIX.
    """

    name: str
    address: str
    pod_prefix: str

    @property
    def state(self) -> Path:
        """What containerd, kubelet and CNI of this node store."""
        return STATE / "nodes" / self.name

    @property
    def run(self) -> Path:
        """The sockets of this node."""
        return RUN / "nodes" / self.name

    @property
    def containerd_socket(self) -> Path:
        """Where containerd listens."""
        return self.run / "containerd.sock"

    @property
    def namespace(self) -> Path | None:
        """The network namespace of its programs, None for the one of the machine they run on."""
        return None


@dataclass(frozen=True)
class HostNode(Node):
    """A node that runs on this machine in a network namespace of its own.

    Attributes:
        host_link: The host's end of its veth pair (at most 15 characters).
    """

    host_link: str

    @property
    def namespace(self) -> Path:
        """The file that keeps the node's network namespace alive."""
        return RUN / "netns" / self.name


@dataclass(frozen=True)
class VirtualNode(Node):
    """A node that is an emulated machine, whose files lie where a node's of this machine do.

    Attributes:
        kernel: The kernel's name, as `hack/vm` knows it.
    """

    kernel: str


NODE = HostNode(
    "node-1",
    address=f"10.99.{INSTANCE}.2",
    pod_prefix=f"10.{244 + INSTANCE}.0.0/24",
    host_link=f"ksm-local{_SUFFIX}-1",
)


def user_cache() -> Path:
    """The folder for what is expensive to build and safe to throw away."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ksm-operator"


def admin_kubeconfig() -> Path:
    """The file that a person's and the tests' KUBECONFIG points to."""
    return STATE / "kubeconfig"


def shell_path() -> Path:
    """The folder with kubectl, helm and ctr that `env` puts on PATH."""
    return STATE / "bin"
