"""The node's network namespace and the veth pair that joins it to the host.

The host's packet filter and forwarding stay untouched. The node has no default route, so nothing
that runs in the cluster reaches beyond this machine.
"""

import contextlib
import ipaddress
import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from local_cluster import layout, mounts
from local_cluster.errors import LocalClusterError
from local_cluster.layout import HostNode, VirtualNode

NODE_LINK = "eth0"

# As root of its own namespace only: none of these reach the host's.
_NODE_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    # Without it, a pod that calls a Service backed by a neighbour on the same bridge gets
    # answers that bypass the address translation. Absent where the module is.
    "net/bridge/bridge-nf-call-iptables": "1",
}


def run(*command: str) -> str:
    """Run a command that has to work.

    Raises:
        LocalClusterError: It failed; says how.
    """
    answer = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise LocalClusterError(f"`{' '.join(command)}` failed: {answer.stderr.strip()}")
    return answer.stdout


def inside(node: HostNode, *command: str) -> str:
    """Run a command in the node's network namespace."""
    return run("nsenter", f"--net={node.namespace}", "--", *command)


def conflicts(
    routes: Iterable[Mapping[str, Any]], prefixes: Iterable[str], own_links: Iterable[str]
) -> list[str]:
    """The host's routes that overlap with what the cluster needs.

    Args:
        routes: What `ip -j route` prints.
        prefixes: What the cluster needs.
        own_links: Links whose routes are the cluster's own.
    """
    wanted = [ipaddress.ip_network(prefix) for prefix in prefixes]
    mine = set(own_links)
    found = []
    for route in routes:
        target = str(route.get("dst", "default"))
        if target == "default" or route.get("dev") in mine:
            continue
        network = ipaddress.ip_network(target, strict=False)
        if any(network.version == one.version and network.overlaps(one) for one in wanted):
            found.append(f"{target} on {route.get('dev')}")
    return found


def require_free_prefixes(nodes: Iterable[HostNode]) -> None:
    """Refuse where the machine already uses the cluster's addresses.

    Raises:
        LocalClusterError: Names the routes in the way.
    """
    routes = json.loads(run("ip", "-4", "-j", "route", "show") or "[]")
    prefixes = (layout.NODE_PREFIX, layout.POD_PREFIX)
    found = conflicts(routes, prefixes, [node.host_link for node in nodes])
    if found:
        raise LocalClusterError(
            f"The local cluster uses {' and '.join(prefixes)}, but this machine routes"
            f" {', '.join(found)}. See `ip route`; take that network down first."
        )


def _has_namespace(node: HostNode) -> bool:
    return any(mount == node.namespace for mount in mounts.below(layout.RUN))


def _links(*prefix: str) -> set[str]:
    return {link["ifname"] for link in json.loads(run(*prefix, "ip", "-j", "link", "show"))}


def ensure(node: HostNode) -> None:
    """Bring the namespace and its link up, from whatever state an interrupted run left."""
    if not _has_namespace(node):
        node.namespace.parent.mkdir(parents=True, exist_ok=True)
        node.namespace.touch()
        run("unshare", f"--net={node.namespace}", "true")
    enter = ("nsenter", f"--net={node.namespace}", "--")
    if node.host_link in _links() and NODE_LINK not in _links(*enter):
        run("ip", "link", "delete", node.host_link)
    if node.host_link not in _links():
        peer = ("peer", "name", NODE_LINK, "netns", str(node.namespace))
        run("ip", "link", "add", node.host_link, "type", "veth", *peer)
    length = layout.NODE_PREFIX.partition("/")[2]
    run("ip", "address", "replace", f"{layout.HOST_ADDRESS}/{length}", "dev", node.host_link)
    run("ip", "link", "set", node.host_link, "up")
    inside(node, "ip", "link", "set", "lo", "up")
    inside(node, "ip", "address", "replace", f"{node.address}/{length}", "dev", NODE_LINK)
    inside(node, "ip", "link", "set", NODE_LINK, "up")
    # Only so that a Service's address has a route before kube-proxy rewrites it: an address that
    # is no Service finds nobody on the link, instead of being forwarded by the host.
    inside(
        node,
        *("ip", "route", "replace", layout.SERVICE_PREFIX),
        *("dev", NODE_LINK, "src", node.address),
    )
    run("ip", "route", "replace", node.pod_prefix, "via", node.address, "dev", node.host_link)
    _set_sysctls(node)


def _set_sysctls(node: HostNode) -> None:
    if modprobe := shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        subprocess.run([modprobe, "-q", "br_netfilter"], check=False)
    for name, value in _NODE_SYSCTLS.items():
        script = f"[ ! -e /proc/sys/{name} ] || echo {value} > /proc/sys/{name}"
        inside(node, "sh", "-c", script)


def remove(node: HostNode) -> None:
    """Take the link and the namespace away."""
    if node.host_link in _links():
        run("ip", "link", "delete", node.host_link)
    mounts.unmount_below(node.namespace)
    with contextlib.suppress(FileNotFoundError):
        node.namespace.unlink()


def _local_route(node: VirtualNode) -> tuple[str, ...]:
    return ("local", node.address, "dev", "lo", "table", "local")


def ensure_address(node: VirtualNode) -> None:
    """Make the node's address one of this machine's, so that the API server reaches its kubelet.

    The emulator listens there. Connections must not come from that address, which is the machine's
    own at the other end: it would answer itself.
    """
    run("ip", "address", "replace", f"{node.address}/32", "dev", "lo")
    source = ("proto", "kernel", "scope", "host", "src", "127.0.0.1")
    run("ip", "route", "replace", *_local_route(node), *source)


def remove_address(node: VirtualNode) -> None:
    """Take it away again; the route outlives the address."""
    shown = json.loads(run("ip", "-j", "address", "show", "dev", "lo", "to", f"{node.address}/32"))
    if any(link.get("addr_info") for link in shown):
        run("ip", "address", "delete", f"{node.address}/32", "dev", "lo")
    if run("ip", "route", "show", "table", "local", "exact", node.address).strip():
        run("ip", "route", "delete", *_local_route(node))


def require_free_port(address: str, port: int) -> None:
    """Refuse where another program listens on the API server's port.

    Raises:
        LocalClusterError: Names the program.
    """
    answer = run("ss", "-Hltnp", f"sport = :{port}")
    for line in answer.splitlines():
        fields = line.split()
        listener = fields[3].rpartition(":")[0].strip("[]")
        if listener in (address, "0.0.0.0", "*", "::"):
            owner = " ".join(fields[5:]) or "unknown"
            raise LocalClusterError(
                f"Port {port} is busy on {fields[3]}: {owner}."
                f" The API server needs it; stop that program (ss -ltnp 'sport = :{port}')."
            )
