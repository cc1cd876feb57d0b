"""Kernels and root file systems in the user's cache, made from Debian packages once."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from local_cluster import layout, prerequisites
from local_cluster.components import duration
from local_cluster.errors import LocalClusterError
from local_cluster.prerequisites import Need, which
from virtual_machines import debian, modules
from virtual_machines.cpio import Archive
from virtual_machines.debian import Apt
from virtual_machines.machines import (
    MODULES,
    ROOT_PACKAGES,
    ROOT_SUITES,
    Architecture,
    Kernel,
    host_architecture,
)

Say = Callable[[str], None]

RECIPE = 1
"""Counted up when the same packages make another image."""

UNUSED = (
    *(f"usr/share/{name}" for name in ("doc", "info", "locale", "man", "perl5", "zoneinfo")),
    *("usr/lib/*/gconv", "usr/lib/*/security", "usr/lib/python3.*/test"),
    *("usr/lib/python3.*/pydoc_data", "usr/lib/python3.*/ensurepip"),
)
"""Nothing that a test runs looks at it, and every byte is copied into a machine at its boot."""

_MERGED = ("bin", "sbin", "lib", "lib64")


def needs(architecture: Architecture) -> tuple[Need, ...]:
    """What the host must have to make and to run a machine."""
    qemu = Need(
        architecture.qemu, lambda: which(architecture.qemu) is not None, architecture.packages
    )
    return (*debian.NEEDS, qemu)


def kernel_folder(kernel: Kernel) -> Path:
    """Where a kernel is kept: `vmlinuz`, `release` with what uname says, and `modules`."""
    recipe = (RECIPE, kernel.architecture.name, kernel.suites, kernel.package, MODULES)
    return folder(f"vm-kernel-{kernel.name}", recipe)


def root_folder(architecture: Architecture) -> Path:
    """Where a root file system is kept: `root.cpio`."""
    recipe = (RECIPE, architecture.name, ROOT_SUITES, ROOT_PACKAGES, UNUSED)
    return folder(f"vm-root-{architecture.name}", recipe)


def folder(name: str, recipe: object) -> Path:
    """Where something is kept that is made by a recipe."""
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    return layout.user_cache() / f"{name}-{key}"


def ensure(kernel: Kernel, say: Say, *, newest: bool = False) -> None:
    """Make what is missing of a machine.

    Args:
        kernel: Which one.
        say: Where progress goes.
        newest: Make it again from what Debian has today.

    Raises:
        LocalClusterError: A package could not be had.
    """
    prerequisites.provide(needs(kernel.architecture), say)
    with only_one(say):
        ensure_kernel(kernel, say, newest=newest)
        root = root_folder(kernel.architecture)
        if newest or not root.is_dir():
            say(f"Programs for {kernel.architecture.name}: fetching Debian packages ...")
            make(root, lambda work: _make_root(kernel.architecture, work), say)


def ensure_kernel(kernel: Kernel, say: Say, *, newest: bool = False) -> None:
    """Fetch a kernel if it is not there; for who holds `only_one`."""
    kept = kernel_folder(kernel)
    if newest or not kept.is_dir():
        say(f"Kernel {kernel.name}: fetching it from {', '.join(kernel.suites)} ...")
        make(kept, lambda work: _make_kernel(kernel, work), say)
        say(f"Kernel {kernel.name}: {release(kernel)}")


def release(kernel: Kernel) -> str:
    """What `uname -r` says on it."""
    return (kernel_folder(kernel) / "release").read_text().strip()


@contextlib.contextmanager
def only_one(say: Say) -> Iterator[None]:
    """Hold the lock of everything that makes what machines need."""
    cache = layout.user_cache()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "vm.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another command makes machines now; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for unfinished in cache.glob(".vm-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        yield


def make(kept: Path, fill: Callable[[Path], None], say: Say) -> None:
    """Fill a folder elsewhere and give it its name: it is there whole or not at all.

    Args:
        kept: Its name.
        fill: Called with a folder to work in, whose `result` is what shall be kept.
        say: Where progress goes.
    """
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=".vm-", dir=kept.parent))
    try:
        result = work / "result"
        result.mkdir()
        fill(work)
        if kept.exists():
            kept.rename(work / "old")
        result.rename(kept)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"{kept.name}: done after {duration(time.monotonic() - started)}")


def _make_kernel(kernel: Kernel, work: Path) -> None:
    apt = Apt(work / "apt", kernel.architecture.name, kernel.suites, debian.machine_mirrors())
    image = next(
        (name for name in apt.depends(kernel.package) if name.startswith("linux-image-")), None
    )
    if image is None:
        raise LocalClusterError(
            f"{kernel.package} of {', '.join(kernel.suites)} names no kernel image."
        )
    # Newer suites split an image: its package is empty and depends on those with the files.
    pieces = ("linux-base-", "linux-binary-", "linux-modules-")
    parts = [name for name in apt.depends(image) if name.startswith(pieces)]
    root = work / "root"
    debian.unpack(apt.fetch(parts or [image]), root)
    found = [*root.glob("boot/vmlinuz-*"), *root.glob("usr/lib/modules/*/vmlinuz")]
    if len(found) != 1:
        raise LocalClusterError(f"{image} has {len(found)} files that could be its kernel.")
    version = image.removeprefix("linux-image-")
    shutil.move(found[0], work / "result" / "vmlinuz")
    (work / "result" / "release").write_text(version + "\n")
    folders = [*root.glob(f"lib/modules/{version}"), *root.glob(f"usr/lib/modules/{version}")]
    kept = work / "result" / "modules"
    kept.mkdir()
    for number, (name, module) in enumerate(modules.in_load_order(folders[0], MODULES).items()):
        (kept / f"{number:02}-{name}.ko").write_bytes(module)


def _make_root(architecture: Architecture, work: Path) -> None:
    mirrors = debian.machine_mirrors()
    root = work / "root"
    unpack_root(architecture, ROOT_PACKAGES, work / "apt", root, mirrors)
    host = host_architecture()
    programs = root
    if host is not None and host != architecture:
        programs = work / "host"
        unpack_root(host, ("python3",), work / "host-apt", programs, mirrors)
    for pattern in UNUSED:
        for folder in root.glob(pattern):
            shutil.rmtree(folder)
    if host is not None:
        _compile_python(host, programs, root)
    with (work / "result" / "root.cpio").open("wb") as output:
        archive = Archive(output)
        for name in ("proc", "sys", "run", "root", "tmp"):
            archive.folder(name)
        archive.console()
        archive.tree(root)
        archive.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
        archive.link("usr/bin/awk", "mawk")
        archive.close()


def unpack_root(
    architecture: Architecture,
    packages: tuple[str, ...],
    lists: Path,
    root: Path,
    mirrors: debian.Mirrors,
) -> None:
    """Unpack packages and what they need into a root file system."""
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    apt = Apt(lists, architecture.name, ROOT_SUITES, mirrors)
    debian.unpack(apt.fetch_with_dependencies(packages), root)


def _compile_python(host: Architecture, programs: Path, root: Path) -> None:
    """Packages compile their modules when they are installed; here an emulated processor would.

    Args:
        host: This machine's architecture.
        programs: A root of this architecture, whose Python does the work.
        root: Where the modules are.
    """
    python = next(programs.glob("usr/bin/python3.[0-9]*"))
    library = programs / "usr/lib" / host.triplet
    command = [str(programs / host.loader), "--library-path", str(library), str(python)]
    modules = root / "usr/lib" / python.name
    packages = root / "usr/lib/python3"
    subprocess.run(
        [
            *command,
            *("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
            *("-s", str(root), "-p", "/", str(modules), str(packages)),
        ],
        env={"PYTHONHOME": str(programs / "usr"), "PATH": os.defpath},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
