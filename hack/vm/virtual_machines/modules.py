"""Parts of a kernel that are loaded at boot: which files they are, and in which order they go."""

import lzma
import re
from collections.abc import Iterable
from pathlib import Path

from local_cluster.errors import LocalClusterError

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
"""In the .modinfo section of a module: what has to be loaded before it, with commas between."""


def _plain(name: str) -> str:
    """A module's name as the kernel spells it: files may have hyphens in it."""
    return name.replace("-", "_")


def content(file: Path) -> bytes:
    """A module as the kernel takes it, whether or not Debian compressed it."""
    raw = file.read_bytes()
    return lzma.decompress(raw) if file.suffix == ".xz" else raw


def dependencies(module: bytes) -> list[str]:
    """The names of the modules that this one needs."""
    found = _DEPENDS.search(module)
    return [name for name in found[1].decode().split(",") if name] if found else []


def in_load_order(folder: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """Modules by name, each after those that it needs.

    Args:
        folder: /usr/lib/modules/VERSION of an unpacked package.
        wanted: Names; those that this kernel has built in need no module.

    Raises:
        LocalClusterError: This kernel has one of them neither way.
    """
    built_in = {
        _plain(Path(line).name.partition(".")[0])
        for line in (folder / "modules.builtin").read_text().splitlines()
    }
    files = {_plain(file.name.partition(".")[0]): file for file in folder.rglob("*.ko*")}
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in ordered or name in built_in:
            return
        if name not in files:
            raise LocalClusterError(f"{folder.name} has no module {name}.")
        module = content(files[name])
        for needed in dependencies(module):
            add(_plain(needed))
        ordered[name] = module

    for name in wanted:
        add(_plain(name))
    return ordered
