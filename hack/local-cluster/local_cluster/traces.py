"""What Kubernetes and containerd leave in folders that no option moves, and removing it."""

import json
import socket
from collections.abc import Iterable
from pathlib import Path

from local_cluster import layout

RECORD = layout.STATE / "folders-before.json"

CNI_RESULTS = Path("/var/lib/cni/results")
POD_LOG_LINKS = Path("/var/log/containers")
SHIM_SOCKETS = Path("/run/containerd/s")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")

FOLDERS = tuple(
    folder
    for leaf in (CNI_RESULTS, POD_LOG_LINKS, SHIM_SOCKETS, DEVICE_PLUGINS)
    for folder in (leaf, leaf.parent)
    if folder not in (Path("/var/log"), Path("/run"))
)
"""The folders in question, each before its parent."""


def save(record: Path = RECORD, folders: Iterable[Path] = FOLDERS) -> None:
    """Write down, once, which of the folders were there before the cluster."""
    if not record.exists():
        record.write_text(json.dumps([str(folder) for folder in folders if folder.exists()]))


def remove(record: Path = RECORD) -> None:
    """Remove our files from the folders, and the folders that only we brought."""
    before = set(json.loads(record.read_text())) if record.exists() else set(map(str, FOLDERS))
    for file in [*_ours(CNI_RESULTS), *_ours(POD_LOG_LINKS), *_dead_sockets()]:
        file.unlink(missing_ok=True)
    for folder in FOLDERS:
        if str(folder) not in before and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _ours(folder: Path) -> list[Path]:
    """Links into our state, and records of pods whose network namespace is ours."""
    if not folder.is_dir():
        return []
    namespaces = f'"{layout.RUN}/'
    return [
        file
        for file in folder.iterdir()
        if (
            file.readlink().is_relative_to(layout.STATE)
            if file.is_symlink()
            else namespaces in file.read_text(errors="replace")
        )
    ]


def _dead_sockets() -> list[Path]:
    """Sockets that a killed shim or kubelet left: nobody listens on them any more."""
    return [
        file
        for folder in (SHIM_SOCKETS, DEVICE_PLUGINS)
        if folder.is_dir()
        for file in folder.iterdir()
        if file.is_socket() and not _has_listener(file)
    ]


def _has_listener(file: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(file))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
