"""The two images every local cluster has, and loading others into the node."""

import hashlib
import os
import subprocess
import tempfile
import time
from pathlib import Path

from local_cluster import archives, guest_ctr, layout
from local_cluster.archives import Image
from local_cluster.components import program
from local_cluster.errors import LocalClusterError
from local_cluster.layout import HostNode, Node, VirtualNode
from local_cluster.node import PAUSE_IMAGE
from local_cluster.prerequisites import static_busybox, which

BUSYBOX_IMAGE = "localhost/ksm-operator-busybox:1"
PAUSE_SOURCE = layout.IMAGES / "pause.c"
MANAGED_LABEL = "io.cri-containerd.image=managed"
"""What containerd puts on an image once the kubelet can see it."""

USABLE_SECONDS = 30.0


def pause_archive() -> Path:
    """The pod sandbox's image, built once per user."""
    key = hashlib.sha256(PAUSE_SOURCE.read_bytes()).hexdigest()[:16]
    file = layout.user_cache() / "images" / f"pause-{key}.tar"
    if not file.exists():
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder) / "pause"
            command = [which("cc") or "cc", "-static", "-Os", "-s", str(PAUSE_SOURCE)]
            answer = subprocess.run(
                [*command, "-o", str(built)], capture_output=True, text=True, check=False
            )
            if answer.returncode != 0:
                raise LocalClusterError(f"{PAUSE_SOURCE} does not compile:\n{answer.stderr}")
            image = Image(PAUSE_IMAGE, ("/pause",), {"pause": built.read_bytes()})
        archives.write(image, file, archives.machine_architecture())
    return file


def busybox_archive() -> Path:
    """A small image for trying things, made of the machine's static busybox."""
    source = static_busybox()
    if source is None:
        raise LocalClusterError("No static busybox. On Debian: apt-get install busybox-static")
    content = source.read_bytes()
    key = hashlib.sha256(content).hexdigest()[:16]
    file = layout.user_cache() / "images" / f"busybox-{key}.tar"
    if not file.exists():
        listed = subprocess.run([source, "--list"], capture_output=True, text=True, check=True)
        applets = [name for name in listed.stdout.split() if name != "busybox"]
        image = Image(
            BUSYBOX_IMAGE,
            ("sh",),
            {"bin/busybox": content},
            links={f"bin/{name}": "busybox" for name in applets},
            files={
                "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
                "nobody:x:65534:65534:nobody:/:/bin/false\n",
                "etc/group": "root:x:0:\nnogroup:x:65534:\n",
            },
            folders={"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777},
        )
        archives.write(image, file, archives.machine_architecture())
    return file


def standing_archives() -> list[Path]:
    """What every cluster has from its start."""
    return [pause_archive(), busybox_archive()]


def _ctr(node: Node, *arguments: str, stdin: Path = Path(os.devnull)) -> str:
    if isinstance(node, VirtualNode):
        return guest_ctr.run(node, arguments, stdin)
    with stdin.open("rb") as file:
        answer = subprocess.run(
            [program("ctr"), "--address", node.containerd_socket, "-n", "k8s.io", *arguments],
            stdin=file,
            capture_output=True,
            text=True,
            check=False,
        )
    if answer.returncode != 0:
        raise LocalClusterError(f"ctr {' '.join(arguments)}: {answer.stderr.strip()}")
    return answer.stdout


def is_answering(node: Node) -> bool:
    """Whether the node's containerd answers."""
    try:
        _ctr(node, "version")
    except LocalClusterError:
        return False
    return True


def present(node: Node) -> set[str]:
    """The images that pods on this node can use now."""
    return set(_ctr(node, "images", "list", "-q", f"labels.{_filter(MANAGED_LABEL)}").split())


def named(node: Node) -> set[str]:
    """Those of them that a person gave a name."""
    return {name for name in present(node) if "@" not in name and not name.startswith("sha256:")}


def export(node: HostNode, name: str, archive: Path) -> None:
    """Write an image of a node to an archive on this machine.

    Raises:
        LocalClusterError: There is no such image.
    """
    _ctr(node, "images", "export", str(archive), name)


def _filter(label: str) -> str:
    key, _, value = label.partition("=")
    return f'"{key}"=={value}'


def load(node: Node, archive: Path) -> list[str]:
    """Load an image archive into the node and wait until pods can use it.

    Returns:
        The names of its images.

    Raises:
        LocalClusterError: It is no image archive, or the node did not take it.
    """
    wanted = archives.names(archive)
    _ctr(node, "images", "import", "-", stdin=archive)
    deadline = time.monotonic() + USABLE_SECONDS
    while absent := set(wanted) - present(node):
        if time.monotonic() > deadline:
            raise LocalClusterError(
                f"{node.name} took {archive} but has no usable {', '.join(sorted(absent))}"
                f" (it has: {', '.join(sorted(present(node)))})"
            )
        time.sleep(0.05)
    return wanted
