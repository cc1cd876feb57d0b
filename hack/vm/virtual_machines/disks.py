"""Disks of machines that stay up: systemd, and the programs that the machine is made for."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from local_cluster import prerequisites
from local_cluster.prerequisites import Need, which
from virtual_machines import debian, images
from virtual_machines.images import UNUSED
from virtual_machines.machines import DISK_PACKAGES, ROOT_SUITES, Architecture, Kernel

Say = Callable[[str], None]

RECIPE = 1
"""Counted up when the same packages and programs make another disk."""

BYTES = 8 << 30
"""How large it is for who runs from it; on the host it takes what is in it."""

MAKES_FILE_SYSTEMS = Need("mke2fs", lambda: which("mke2fs") is not None, ("e2fsprogs",))

# What the packages' scripts would do; they are not run.
LINKS = {"usr/sbin/iptables": "xtables-nft-multi", "usr/sbin/iptables-save": "xtables-nft-multi"}
LINKS |= {f"{name}-restore": target for name, target in LINKS.items() if name.endswith("tables")}
FOLDERS = ("dev", "proc", "root", "run", "sys", "tmp")
FILES = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    # systemd makes one at every boot otherwise, and takes it for the first boot of all.
    "etc/machine-id": f"{0x6B736D:032x}\n",
}


def disk(architecture: Architecture, programs: Sequence[Path]) -> Path:
    """Where the disk with these programs is kept."""
    recipe = (RECIPE, architecture.name, ROOT_SUITES, DISK_PACKAGES, BYTES, LINKS, FOLDERS, FILES)
    return images.folder(f"vm-disk-{architecture.name}", (*recipe, *map(str, programs))) / "disk"


def ensure(kernel: Kernel, programs: Sequence[Path], say: Say) -> None:
    """Make what is missing of a machine that stays up.

    Args:
        kernel: Its kernel.
        programs: Files that it has at the same place as this machine.
        say: Where progress goes.

    Raises:
        LocalClusterError: A package could not be had.
    """
    prerequisites.provide((*images.needs(kernel.architecture), MAKES_FILE_SYSTEMS), say)
    with images.only_one(say):
        images.ensure_kernel(kernel, say)
        kept = disk(kernel.architecture, programs).parent
        if not kept.is_dir():
            say(f"A disk for {kernel.architecture.name}: fetching Debian packages ...")
            images.make(kept, lambda work: _make(kernel.architecture, programs, work), say)


def _make(architecture: Architecture, programs: Sequence[Path], work: Path) -> None:
    root = work / "root"
    images.unpack_root(architecture, DISK_PACKAGES, work / "apt", root, debian.machine_mirrors())
    for pattern in UNUSED:
        for folder in root.glob(pattern):
            shutil.rmtree(folder)
    for name, target in LINKS.items():
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)
    for name in FOLDERS:
        (root / name).mkdir(exist_ok=True)
    for name, text in FILES.items():
        (root / name).write_text(text)
    for program in programs:
        place = root / program.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(program, place)
    make_file_system(root, work / "result" / "disk")


def make_file_system(root: Path, file: Path) -> None:
    """Make a disk with what is in a folder."""
    with file.open("wb") as output:
        output.truncate(BYTES)
    # Nobody keeps anything on it: a machine that is switched off forgets what it wrote.
    features = "^has_journal,^metadata_csum"
    command = [which("mke2fs") or "mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", features]
    subprocess.run([*command, "-d", str(root), str(file)], check=True, capture_output=True)
