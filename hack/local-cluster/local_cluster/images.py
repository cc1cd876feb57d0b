"""The two images every local cluster has, and loading others into the node."""

import hashlib
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from local_cluster import archives, layout, processes
from local_cluster.archives import Image
from local_cluster.components import program
from local_cluster.errors import LocalClusterError
from local_cluster.layout import HostNode
from local_cluster.node import PAUSE_IMAGE
from local_cluster.prerequisites import static_busybox, which
from local_cluster.processes import Service

BUSYBOX_IMAGE = "localhost/ksm-operator-busybox:1"
PAUSE_SOURCE = layout.IMAGES / "pause.c"
MANAGED_LABEL = "io.cri-containerd.image=managed"
"""What containerd puts on an image once the kubelet can see it."""

USABLE_SECONDS = 30.0
START_SECONDS = 30.0


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


def ctr(socket: Path, *arguments: str) -> str:
    """Ask the containerd that listens there, in the namespace that kubelets use.

    Raises:
        LocalClusterError: It refuses, or nobody answers.
    """
    answer = subprocess.run(
        [program("ctr"), "--address", socket, "-n", "k8s.io", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise LocalClusterError(f"ctr {' '.join(arguments)}: {answer.stderr.strip()}")
    return answer.stdout


def is_answering(node: HostNode) -> bool:
    """Whether the node's containerd answers."""
    return _answers(node.containerd_socket)


def _answers(socket: Path) -> bool:
    try:
        ctr(socket, "version")
    except LocalClusterError:
        return False
    return True


def wait_for_containerd(socket: Path, service: Service, pid: int) -> None:
    """Wait until the containerd that was started answers.

    Raises:
        LocalClusterError: It ended, or does not answer.
    """
    deadline = time.monotonic() + START_SECONDS
    while not _answers(socket):
        processes.require_alive(service, pid)
        if time.monotonic() > deadline:
            raise LocalClusterError(f"containerd does not answer; see {service.log}")
        time.sleep(0.1)


def present(node: HostNode) -> set[str]:
    """The images that pods on this node can use now."""
    return set(_managed(node, "-q").split())


def _managed(node: HostNode, *options: str) -> str:
    filtered = f"labels.{_filter(MANAGED_LABEL)}"
    return ctr(node.containerd_socket, "images", "list", *options, filtered)


def digests(node: HostNode) -> dict[str, str]:
    """Those of them that a person gave a name, each with its digest."""
    _, *lines = _managed(node).splitlines()
    fields = [line.split() for line in lines]
    return {
        name: digest
        for name, _, digest, *_ in fields
        if "@" not in name and not name.startswith("sha256:")
    }


def export(node: HostNode, names: Iterable[str], archive: Path) -> None:
    """Write images of a node to an archive on this machine.

    Raises:
        LocalClusterError: There is no such image.
    """
    # Not by the transfer API: ctr does not wait for the end of that stream, and on a busy machine
    # the archive then lacks its last kilobytes.
    ctr(node.containerd_socket, "images", "export", "--local", str(archive), *names)


def _filter(label: str) -> str:
    key, _, value = label.partition("=")
    return f'"{key}"=={value}'


def load(node: HostNode, archive: Path) -> list[str]:
    """Load an image archive into the node and wait until pods can use it.

    Returns:
        The names of its images.

    Raises:
        LocalClusterError: It is no image archive, or the node did not take it.
    """
    wanted = archives.names(archive)
    ctr(node.containerd_socket, "images", "import", str(archive))
    deadline = time.monotonic() + USABLE_SECONDS
    while absent := set(wanted) - present(node):
        if time.monotonic() > deadline:
            raise LocalClusterError(
                f"{node.name} took {archive} but has no usable {', '.join(sorted(absent))}"
                f" (it has: {', '.join(sorted(present(node)))})"
            )
        time.sleep(0.05)
    return wanted
