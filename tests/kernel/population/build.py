"""The programs of the population, built once per user and content."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from local_cluster import layout
from support import machine

SOURCES = Path(__file__).parent / "programs"
BLOCKING = Path(__file__).parent.parent / "blocking.c"
NEEDS = {
    "cc": "gcc libc6-dev",
    "javac": "default-jdk-headless",
    "java": "default-jdk-headless",
    "node": "nodejs",
}
C_FLAGS = ("-O2", "-Wall", "-Wno-unused-result")


@dataclass(frozen=True)
class Programs:
    """Where the programs are.

    Attributes:
        folder: what was built; C programs in a dynamic and a `-static` form.
        scripts: what needs no building.
        java: the machine's java.
        node: the machine's node.
    """

    folder: Path
    scripts: Path
    java: str
    node: str


def _files() -> list[Path]:
    headers = BLOCKING.parent.glob("*.h")
    return sorted([BLOCKING, *headers, *(path for path in SOURCES.rglob("*") if path.is_file())])


def _key() -> str:
    digest = hashlib.sha256(" ".join(C_FLAGS).encode())
    for file in _files():
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _build(folder: Path) -> None:
    c_programs = (BLOCKING, SOURCES / "workloads.c")
    commands = [
        ["cc", *C_FLAGS, *static, "-o", f"{folder}/{source.stem}{''.join(static)}", str(source)]
        for source in c_programs
        for static in ([], ["-static"])
    ]
    commands.append(["javac", "-d", str(folder), str(SOURCES / "Workload.java")])
    commands.append(["go", "build", "-trimpath", "-o", f"{folder}/go-workload", "."])
    settings = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
    for command in commands:
        subprocess.run(command, check=True, cwd=SOURCES / "go", env=os.environ | settings)


def programs() -> Programs:
    """Build what is not built yet; skips where a compiler or a runtime is missing."""
    found = {name: shutil.which(name) for name in (*NEEDS, "go")}
    for name, path in found.items():
        if path is None:
            packages = NEEDS.get(name)
            command = f"apt-get install {packages}" if packages else "https://go.dev/dl (1.21)"
            machine.missing(f"These tests need {name}", command)
    folder = layout.user_cache() / f"population-{_key()}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            _build(Path(unfinished))
            Path(unfinished).chmod(0o755)
            try:
                Path(unfinished).rename(folder)
            except OSError:
                assert folder.exists()  # another run was faster
            else:
                Path(unfinished).mkdir()  # which the context takes away
    return Programs(folder, SOURCES, str(found["java"]), str(found["node"]))
