"""The images of virtual nodes: one disk with what their containerd stores, made on this machine.

To unpack an image takes an emulated processor as many minutes as this one seconds.
"""

import shutil
from pathlib import Path

from local_cluster import images, layout, mounts, node, processes
from local_cluster.components import program
from local_cluster.errors import LocalClusterError
from local_cluster.layout import HostNode
from local_cluster.processes import Service
from virtual_machines import disks
from virtual_machines.disks import Say

FILE = layout.STATE / "images.disk"
_RECORD = layout.STATE / "images.list"
"""The images that are on the disk, with their digests."""

_WORK = layout.STATE / "images"
_ROOT = _WORK / "root"
_SOCKET = layout.RUN / "images.sock"
STOP_SECONDS = 10.0


def _config() -> str:
    return f"""\
version = 3
root = '{_ROOT}'
state = '{_WORK}/state'
# It stores images and runs nothing.
disabled_plugins = [
  'io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.runtime', 'io.containerd.nri.v1.nri',
]

[grpc]
address = '{_SOCKET}'

[ttrpc]
address = '{_SOCKET}.ttrpc'
"""


def _containerd() -> Service:
    file = str(_WORK / "containerd.toml")
    return Service("containerd-images", (str(program("containerd")), "--config", file), mark=file)


def _listed(source: HostNode) -> str:
    return "".join(f"{name} {digest}\n" for name, digest in sorted(images.digests(source).items()))


def is_current(source: HostNode) -> bool:
    """Whether the disk has the images that this node has now."""
    return FILE.exists() and _RECORD.exists() and _RECORD.read_text() == _listed(source)


def ensure(source: HostNode, say: Say) -> None:
    """Make the disk with the images of a node, unless it is current.

    A machine that runs keeps the disk that it has.

    Raises:
        LocalClusterError: This machine cannot unpack images the way that virtual nodes need them.
    """
    if is_current(source):
        return
    if not node.has_overlay(layout.STATE):
        raise LocalClusterError(
            f"Nodes with other kernels need overlay mounts, and {layout.STATE} cannot have any."
            " Mount a file system such as ext4 or xfs there."
        )
    say(f"Making a disk with the images of {source.name} ...")
    _clear()
    _ROOT.mkdir(parents=True)
    archive = _WORK / "images.tar"
    images.export(source, sorted(images.digests(source)), archive)
    _unpack(archive)
    draft = FILE.with_suffix(".new")
    disks.make_file_system(_ROOT, draft)
    _RECORD.unlink(missing_ok=True)
    draft.rename(FILE)
    _RECORD.write_text(_listed(source))
    _clear()


def _unpack(archive: Path) -> None:
    service = _containerd()
    (_WORK / "containerd.toml").write_text(_config())
    pid = processes.start(service)
    try:
        images.wait_for_containerd(_SOCKET, service, pid)
        images.ctr(_SOCKET, "images", "import", str(archive))
    finally:
        processes.stop_pids([pid], STOP_SECONDS)


def _clear() -> None:
    """Remove what an interrupted run left, or what a disk was made of."""
    left = processes.find(_containerd())
    processes.stop_pids([left] if left else [], STOP_SECONDS)
    mounts.unmount_below(_WORK)
    shutil.rmtree(_WORK, ignore_errors=True)
