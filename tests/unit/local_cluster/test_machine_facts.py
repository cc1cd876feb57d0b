"""What the program reads off the machine: cgroups, mounts, routes, settings, needs."""

from pathlib import Path

import pytest

from local_cluster import (
    cgroups,
    commands,
    layout,
    machine,
    mounts,
    network,
    prerequisites,
)
from local_cluster.cgroups import Hierarchy
from local_cluster.errors import LocalClusterError
from local_cluster.prerequisites import Need

V1_AND_V2 = """\
25 20 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw
27 25 0:24 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
28 25 0:24 /docker/abc /srv/part rw,nosuid - cgroup cgroup rw,memory
"""


def test_hierarchies_are_those_mounted_from_their_root() -> None:
    """A part of a hierarchy that some container mounted is no place for our subtree."""
    found = cgroups.parse_mounts(V1_AND_V2)
    assert found == [
        Hierarchy(Path("/sys/fs/cgroup/unified"), unified=True),
        Hierarchy(Path("/sys/fs/cgroup/memory"), unified=False),
    ]
    assert not cgroups.is_v2_only(found)
    assert cgroups.is_v2_only(found[:1])


def test_mount_points_with_spaces() -> None:
    """The kernel escapes a space; unmounting the wrong path would be no joke."""
    line = "30 1 0:30 / /var/lib/a\\040b rw - tmpfs tmpfs rw\n"
    assert mounts.parse(line) == [Path("/var/lib/a b")]


@pytest.mark.parametrize(
    ("route", "conflict"),
    [
        ({"dst": "default", "dev": "eth0"}, []),
        ({"dst": "192.0.2.0/24", "dev": "eth0"}, []),
        ({"dst": "10.0.0.0/8", "dev": "tun0"}, ["10.0.0.0/8 on tun0"]),
        ({"dst": "10.99.0.7", "dev": "eth1"}, ["10.99.0.7 on eth1"]),
        ({"dst": "10.99.0.0/24", "dev": "ours"}, []),
    ],
)
def test_conflicting_routes(route: dict[str, str], conflict: list[str]) -> None:
    """Taking an address range that a VPN uses would cut somebody off."""
    assert network.conflicts([route], ["10.99.0.0/24", "10.244.0.0/16"], ["ours"]) == conflict


def test_settings_are_put_back_only_where_they_are_still_the_kubelets() -> None:
    """A value that an administrator set while the cluster ran is theirs."""
    saved = {"kernel/panic": "0", "vm/overcommit_memory": "0", "vm/panic_on_oom": "0"}
    now = {"kernel/panic": "10", "vm/overcommit_memory": "2", "vm/panic_on_oom": "0"}
    assert machine.to_restore(saved, now) == {"kernel/panic": "0"}


def test_settings_are_saved_once_and_restored(tmp_path: Path) -> None:
    """A second `up` must not write the kubelet's values down as the machine's."""
    root, record = tmp_path / "sys", tmp_path / "record.json"
    for name in machine.KUBELET_VALUES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("0\n")
    machine.save(record, root)
    for name, value in machine.KUBELET_VALUES.items():
        (root / name).write_text(f"{value}\n")
    machine.save(record, root)
    machine.restore(record, root)
    assert {(root / name).read_text() for name in machine.KUBELET_VALUES} == {"0\n"}
    assert not record.exists()


def test_missing_things_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without apt a person installs it, and has to know what."""
    monkeypatch.setattr(prerequisites, "which", lambda _: None)
    need = Need("a flux capacitor", lambda: False, ("flux-capacitor",))
    with pytest.raises(LocalClusterError) as caught:
        prerequisites.provide([need], print)
    assert "a flux capacitor" in str(caught.value)
    assert "apt-get install -y --no-install-recommends flux-capacitor" in str(caught.value)


@pytest.mark.parametrize(
    ("effective", "allowed"), [("000001ffffffffff", True), ("000001fffeffffff", False)]
)
def test_capability_to_lower_the_oom_score(
    tmp_path: Path, effective: str, *, allowed: bool
) -> None:
    """Root in a sandbox often lacks CAP_SYS_RESOURCE, and then no pod would start."""
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython3\nCapEff:\t{effective}\n")
    assert prerequisites.may_lower_oom_score(status) is allowed


def test_shell_environment_puts_our_programs_first_once() -> None:
    """Evaluated again and again in one shell, PATH must not grow."""
    ours = str(layout.shell_path())
    text = commands.environment(f"/usr/bin:{ours}:/bin")
    assert f"export PATH={ours}:/usr/bin:/bin" in text.splitlines()
    assert all(line.startswith("export ") for line in text.splitlines())


@pytest.mark.parametrize("text", ["-1", "10", "two", "1 "])
def test_numbers_that_are_no_cluster(text: str) -> None:
    """The number becomes part of paths and addresses."""
    with pytest.raises(SystemExit, match="KSM_LOCAL_CLUSTER"):
        layout.instance(text)
