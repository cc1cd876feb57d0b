"""What a machine gets beside its programs: this tree as it is now, and the command to run."""

import hashlib
import io
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from local_cluster import layout, prerequisites
from local_cluster.errors import LocalClusterError
from local_cluster.prerequisites import Need, which
from virtual_machines.cpio import Archive
from virtual_machines.machines import Architecture, host_architecture

Say = Callable[[str], None]

REPOSITORY = Path(__file__).resolve().parents[3]
GUEST = Path(__file__).resolve().parent.parent / "guest"
WORK = "ksm-operator"
"""Where the tree lies in a machine, and where the command starts."""

COMPILE = ("-O2", "-static", "-pthread", "-Wno-unused-result")
LIBRARIES = ("-lm", "-lrt")


def tree_files(repository: Path = REPOSITORY) -> list[Path]:
    """The files of the working tree: tracked ones as they are now, and new ones not ignored.

    Raises:
        LocalClusterError: It is no clone.
    """
    answer = subprocess.run(
        [
            # Root may look at a tree that another user owns: nothing of it is run here.
            *("git", "-c", "safe.directory=*"),
            *("ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        ],
        cwd=repository,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise LocalClusterError(
            f"git cannot list the files of {repository}: {answer.stderr.strip()}."
            " The machine gets the working tree of a clone: git clone it."
        )
    names = sorted(set(answer.stdout.split("\0")) - {""})
    return [Path(name) for name in names if (repository / name).is_file()]


def pack(architecture: Architecture, command: Sequence[str], say: Say) -> bytes:
    """The archive that is unpacked over the root of a machine."""
    buffer = io.BytesIO()
    archive = Archive(buffer)
    archive.file("init", (GUEST / "init").read_bytes(), 0o755)
    archive.file("command", f"exec {shlex.join(command)}\n".encode())
    archive.file("usr/local/bin/cc", (GUEST / "cc").read_bytes(), 0o755)
    archive.folder("programs")
    for file in tree_files():
        source = REPOSITORY / file
        archive.file(f"{WORK}/{file}", source.read_bytes(), source.stat().st_mode & 0o777)
        if file.suffix == ".c" and file.parts[0] == "tests":
            program = compiled(source, architecture, say)
            if program is not None:
                archive.file(f"programs/{_digest(source)}", program.read_bytes(), 0o755)
    archive.close()
    return buffer.getvalue()


def _digest(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()


def compiled(source: Path, architecture: Architecture, say: Say) -> Path | None:
    """A C file as a static program, kept in the cache; None where it does not compile for it."""
    compiler = "cc"
    packages: tuple[str, ...] = ("gcc", "libc6-dev")
    if host_architecture() != architecture:
        compiler, packages = f"{architecture.triplet}-gcc", architecture.cross_packages
    prerequisites.provide((Need(compiler, lambda: which(compiler) is not None, packages),), say)
    folder = layout.user_cache() / "vm-programs" / architecture.name
    folder.mkdir(parents=True, exist_ok=True)
    headers = map(_digest, sorted(source.parent.glob("*.h")))
    words = (_digest(source), *headers, *COMPILE, *LIBRARIES)
    key = hashlib.sha256("\0".join(words).encode()).hexdigest()
    program = folder / f"{source.stem}-{key[:16]}"
    if program.exists():
        return program
    with tempfile.TemporaryDirectory(dir=folder) as work:
        draft = Path(work) / "program"
        answer = subprocess.run(
            [which(compiler) or compiler, *COMPILE, "-o", str(draft), str(source), *LIBRARIES],
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            error = next((line for line in answer.stderr.splitlines() if "error:" in line), "")
            say(f"{source.name} does not compile for {architecture.name}, left out: {error}")
            return None
        draft.rename(program)
    return program
