"""A machine that stays up, with a disk, systemd and a network of its own that leads nowhere.

It sees one address of this machine and one port there; this machine sees some ports of it.
"""

import gzip
import io
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from local_cluster.prerequisites import static_busybox, which
from virtual_machines import images
from virtual_machines.cpio import Archive
from virtual_machines.machines import Kernel
from virtual_machines.payload import GUEST

MEBIBYTES = 2048
LINK = "eth0"


@dataclass(frozen=True)
class Network:
    """The network of one machine.

    Attributes:
        address: The machine's own, with the length of its prefix.
        host: What it knows this machine by.
        port: The one that it reaches there.
        open: Its own ports that this machine reaches, at the same address.
    """

    address: ipaddress.IPv4Interface
    host: str
    port: int
    open: tuple[int, ...]

    def words(self) -> list[str]:
        """What makes the emulator have it."""
        # The emulator needs addresses for itself that nobody asks for.
        gateway, names = self.address.network[-2], self.address.network[-3]
        # Each connection is a process that ends with it.
        relay = f"busybox nc {self.host} {self.port}"
        forward = [
            f"hostfwd=tcp:{self.address.ip}:{port}-{self.address.ip}:{port}" for port in self.open
        ]
        parts = [
            *("user", "id=net", "restrict=on", "ipv6=off", f"net={self.address.network}"),
            *(f"host={gateway}", f"dns={names}"),
            *(f"guestfwd=tcp:{self.host}:{self.port}-cmd:{relay}", *forward),
        ]
        return ["-netdev", ",".join(parts), "-device", "virtio-net-pci,netdev=net,romfile="]


def initrd(
    kernel: Kernel, network: Network, *, route: str, mounted: Path, files: Mapping[Path, bytes]
) -> bytes:
    """What the machine starts with, and puts on its disk at every start.

    Args:
        kernel: Its kernel.
        network: Its network.
        route: Addresses that it looks for at this machine's, beside its neighbours.
        mounted: Where it mounts its second disk.
        files: What it has beside what is on its disk. Only root may read them.
    """
    buffer = io.BytesIO()
    archive = Archive(buffer)
    for name in ("proc", "sys", "disk", "files"):
        archive.folder(name)
    archive.console()
    busybox = static_busybox()
    assert busybox is not None
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    archive.link("bin/sh", "busybox")
    archive.file("init", (GUEST / "server-init").read_bytes(), 0o755)
    words = {
        "ADDRESS": network.address,
        "HOST": network.host,
        "ROUTE": route,
        "LINK": LINK,
        "MOUNTED": mounted,
    }
    archive.file("settings", "".join(f"{key}={value}\n" for key, value in words.items()).encode())
    for module in sorted((images.kernel_folder(kernel) / "modules").iterdir()):
        archive.file(f"modules/{module.name}", module.read_bytes())
    for path, content in files.items():
        archive.file(f"files{path}", content, 0o600)
    archive.close()
    return gzip.compress(buffer.getvalue(), compresslevel=1)


def command_line(
    kernel: Kernel,
    *,
    name: str,
    disks: Iterable[Path],
    start: Path,
    network: Network,
    words: Iterable[str],
) -> tuple[str, ...]:
    """What starts the emulator.

    Args:
        kernel: Its kernel.
        name: The machine's.
        disks: Its root first. Read only; what the machine writes is gone when it is switched off.
        start: The file with its initrd.
        network: Its network.
        words: For its kernel.
    """
    architecture = kernel.architecture
    kernel_words = [
        *(f"console={architecture.console}", "quiet", "panic=-1", "mitigations=off", "nokaslr"),
        *("net.ifnames=0", *words),
    ]
    return (
        which(architecture.qemu) or architecture.qemu,
        *("-name", name, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *architecture.hardware,
        # With two, each would wait for the other while a busy host runs neither.
        *("-accel", "tcg,thread=single", "-smp", "1", "-m", str(MEBIBYTES)),
        *("-kernel", str(images.kernel_folder(kernel) / "vmlinuz"), "-initrd", str(start)),
        *("-append", " ".join(kernel_words)),
        *(word for number, disk in enumerate(disks) for word in _drive(f"disk{number}", disk)),
        *network.words(),
        *("-serial", "stdio"),
    )


def _drive(name: str, disk: Path) -> tuple[str, ...]:
    drive = f"file={disk},format=raw,if=none,id={name},snapshot=on"
    return ("-drive", drive, "-device", f"virtio-blk-pci,drive={name}")
