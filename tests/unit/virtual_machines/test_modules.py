"""Which modules a machine loads, and in which order."""

import lzma
from pathlib import Path

import pytest

from local_cluster.errors import LocalClusterError
from virtual_machines.modules import dependencies, in_load_order


def module(*needs: str) -> bytes:
    """A module's file, as far as it is looked at: its .modinfo section."""
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a package has of them: some compressed, some built in, with hyphens in files' names."""
    (tmp_path / "kernel/net").mkdir(parents=True)
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/lib/crc-16.ko\n")
    (tmp_path / "kernel/net/bridge.ko").write_bytes(module("stp", "llc"))
    (tmp_path / "kernel/net/stp.ko").write_bytes(module("llc"))
    (tmp_path / "kernel/net/llc.ko.xz").write_bytes(lzma.compress(module("crc_16")))
    (tmp_path / "kernel/net/a-table.ko").write_bytes(module())
    return tmp_path


def test_dependencies() -> None:
    """Nothing sorts them out in a machine: no depmod has run."""
    assert dependencies(module("one", "two")) == ["one", "two"]
    assert dependencies(module()) == []
    assert dependencies(b"\x7fELF") == []


def test_each_comes_after_what_it_needs(folder: Path) -> None:
    """The kernel refuses a module whose symbols are not there yet."""
    found = in_load_order(folder, ["ext4", "bridge", "a_table"])
    assert list(found) == ["llc", "stp", "bridge", "a_table"]
    assert found["llc"] == module("crc_16")


def test_a_kernel_without_it_is_named(folder: Path) -> None:
    """Seen when the kernel is fetched, and not by a pod that never gets an address."""
    with pytest.raises(LocalClusterError, match=f"{folder.name} has no module wireguard"):
        in_load_order(folder, ["wireguard"])
