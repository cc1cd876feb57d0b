"""OCI image archives: writing small ones without any tool, and reading names out of any."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_cluster.errors import LocalClusterError

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What the kernel calls a machine, to what image indexes call it."""

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True)
class Image:
    """A small image, one layer.

    Attributes:
        name: Its full name with a tag.
        command: What it runs.
        programs: Path in the image to the bytes of an executable.
        links: Path in the image to the target of a symbolic link.
        files: Path in the image to the text of an ordinary file.
        folders: Folders, with their mode.
    """

    name: str
    command: tuple[str, ...]
    programs: Mapping[str, bytes]
    links: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, int] = field(default_factory=dict)


def machine_architecture() -> str:
    """This machine's architecture as image indexes name it."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _layer(image: Image) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, mode in sorted(image.folders.items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        for name, content in sorted(image.programs.items()):
            _add(archive, name, content, 0o755)
        for name, text in sorted(image.files.items()):
            _add(archive, name, text.encode(), 0o644)
        for name, target in sorted(image.links.items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            archive.addfile(entry)
    return buffer.getvalue()


def write(image: Image, file: Path, architecture: str) -> None:
    """Write an OCI archive, the same bytes for the same content; whole or not at all."""
    layer = _layer(image)
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": list(image.command), "Env": ["PATH=/usr/bin:/bin:/usr/sbin:/sbin"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs: dict[str, bytes] = {}

    def keep(media_type: str, content: bytes) -> dict[str, Any]:
        digest = _digest(content)
        blobs[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": keep(_CONFIG, json.dumps(config).encode()),
        "layers": [keep(_LAYER, layer)],
    }
    entry = keep(_MANIFEST, json.dumps(manifest).encode()) | {
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": dict.fromkeys(_NAME_KEYS, image.name),
    }
    index = {"schemaVersion": 2, "manifests": [entry]}
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".new")
    with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}', 0o644)
        _add(archive, "index.json", json.dumps(index).encode(), 0o644)
        for name, content in blobs.items():
            _add(archive, name, content, 0o644)
    draft.rename(file)


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def names(file: Path) -> list[str]:
    """The image names in an OCI or docker archive.

    Raises:
        LocalClusterError: It is no image archive, or its images have no full name.
    """
    try:
        with tarfile.open(file) as archive:
            found = _oci_names(archive) or _docker_names(archive)
    except (OSError, tarfile.TarError) as error:
        raise LocalClusterError(f"{file} is no image archive: {error}") from error
    complete = [name for name in found if "/" in name or ":" in name]
    if not complete:
        raise LocalClusterError(
            f"{file} has no image with a full name in it (found: {found or 'none'})."
            " Write it with a name: docker save NAME:TAG, or"
            " buildah push NAME:TAG oci-archive:FILE:NAME:TAG"
        )
    return complete


def _member(archive: tarfile.TarFile, name: str) -> Any:
    for spelling in (name, f"./{name}"):
        try:
            content = archive.extractfile(spelling)
        except KeyError:
            continue
        if content is not None:
            return json.load(content)
    return None


def _oci_names(archive: tarfile.TarFile) -> list[str]:
    index = _member(archive, "index.json") or {}
    found = []
    for entry in index.get("manifests", []):
        annotations = entry.get("annotations") or {}
        name = next((annotations[key] for key in _NAME_KEYS if key in annotations), None)
        if name is not None:
            found.append(str(name))
    return found


def _docker_names(archive: tarfile.TarFile) -> list[str]:
    manifests = _member(archive, "manifest.json") or []
    return [str(tag) for entry in manifests for tag in entry.get("RepoTags") or []]
