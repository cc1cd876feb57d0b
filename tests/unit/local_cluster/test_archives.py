import io
import json
import tarfile
from pathlib import Path

import pytest

from local_cluster import archives
from local_cluster.archives import Image
from local_cluster.errors import LocalClusterError

IMAGE = Image(
    "localhost/thing:1",
    ("/thing",),
    {"bin/thing": b"\x7fELF"},
    links={"thing": "bin/thing"},
    files={"etc/passwd": "root:x:0:0::/:/bin/sh\n"},
    folders={"tmp": 0o1777},
)


def _docker_archive(file: Path, tags: list[str] | None) -> Path:
    content = json.dumps([{"RepoTags": tags}]).encode()
    with tarfile.open(file, "w") as archive:
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file


def test_written_archive_has_its_name_and_whole_blobs(tmp_path: Path) -> None:
    """Containerd refuses an archive whose digests or sizes do not fit."""
    file = tmp_path / "image.tar"
    archives.write(IMAGE, file, "arm64")
    assert archives.names(file) == ["localhost/thing:1"]
    with tarfile.open(file) as archive:
        blobs = {
            "sha256:" + Path(name).name: archives._digest(_content(archive, name))
            for name in archive.getnames()
            if name.startswith("blobs/")
        }
        index = json.loads(_content(archive, "index.json"))
    assert all(name == digest for name, digest in blobs.items())
    assert index["manifests"][0]["digest"] in blobs
    assert index["manifests"][0]["platform"]["architecture"] == "arm64"


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None
    return member.read()


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    """An image that changes without a reason is unpacked again on every start."""
    for name in ("one.tar", "two.tar"):
        archives.write(IMAGE, tmp_path / name, "amd64")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_names_of_a_docker_archive(tmp_path: Path) -> None:
    """`docker save` is how most people get an archive."""
    file = _docker_archive(tmp_path / "docker.tar", ["example.com/a:1", "example.com/b:2"])
    assert archives.names(file) == ["example.com/a:1", "example.com/b:2"]


@pytest.mark.parametrize("tags", [None, []])
def test_archive_without_a_name_says_how_to_give_one(
    tmp_path: Path, tags: list[str] | None
) -> None:
    """A nameless image would be loaded and never be found by a pod."""
    with pytest.raises(LocalClusterError, match="docker save NAME:TAG"):
        archives.names(_docker_archive(tmp_path / "nameless.tar", tags))


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    """The usual mistake is a wrong file name."""
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    with pytest.raises(LocalClusterError, match=r"notes\.txt is no image archive"):
        archives.names(file)
