"""Which machines a person asks for, and what these have."""

import ipaddress
import itertools

import pytest

from local_cluster import layout, virtual_nodes
from local_cluster.errors import LocalClusterError
from local_cluster.virtual_nodes import parse, possible


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("", {}),
        ("vm:7", {"vm-7": "7"}),
        ("vm:7.2,vm:6.12", {"vm-7": "7.2", "vm-6.12": "6.12"}),
        (" vm:6.1  vm:6.12.90 ", {"vm-6.1": "6.1", "vm-6.12": "6.12.90"}),
    ],
)
def test_nodes_by_their_kernel(text: str, nodes: dict[str, str]) -> None:
    """A version is of a series, also one that begins like another's."""
    assert {one.name: version for one, version in parse(text).items()} == nodes


@pytest.mark.parametrize("text", ["7", "vm:", "vm:5.10", "vm:7 kind:6.12", "vm:6.123"])
def test_no_such_machine(text: str) -> None:
    """What there is is said: nobody knows the names by heart."""
    with pytest.raises(LocalClusterError, match=r"There are: .*vm:6\.12 vm:7"):
        parse(text)


def test_addresses_are_the_clusters_and_nobody_elses() -> None:
    """Two nodes with one address would each get half of the other's connections."""
    nodes = [layout.NODE, *possible()]
    addresses = {ipaddress.ip_address(one.address) for one in nodes}
    host = ipaddress.ip_address(layout.HOST_ADDRESS)
    assert len(addresses | {host}) == len(nodes) + 1
    assert addresses <= set(ipaddress.ip_network(layout.NODE_PREFIX).hosts())
    prefixes = [ipaddress.IPv4Network(one.pod_prefix) for one in nodes]
    assert all(one.subnet_of(ipaddress.IPv4Network(layout.POD_PREFIX)) for one in prefixes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(prefixes, 2))


def test_the_machine_asks_for_no_merging_and_reaches_one_port() -> None:
    """A guest beside the tests must not merge with what they look at, nor see the world."""
    words = [
        part for word in virtual_nodes.machine(possible()[0]).command for part in word.split(",")
    ]
    assert {"mem-merge=off", "restrict=on", "ipv6=off"} <= set(words)
    assert sum(word.startswith("guestfwd=") for word in words) == 1
