"""Archives that the kernel unpacks at boot: cpio in the `newc` format, initramfs(5)."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_ALIGNMENT = 4
CONSOLE = (5, 1)


class Archive:
    """Writes entries that belong to root, whoever makes the archive."""

    def __init__(self, output: BinaryIO) -> None:
        """Write to a file that is open for it."""
        self._output = output
        self._number = 0
        self._folders: set[str] = set()

    def folder(self, name: str, mode: int = 0o755) -> None:
        """A folder, and those above it; one that is there already stays as it is."""
        above = name.rpartition("/")[0]
        if name in self._folders:
            return
        if above:
            self.folder(above)
        self._folders.add(name)
        self._entry(name, stat.S_IFDIR | mode)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """A file."""
        self.folder(name.rpartition("/")[0] or ".")
        self._entry(name, stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self.folder(name.rpartition("/")[0] or ".")
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def console(self) -> None:
        """/dev/console, which the first program's output goes to before anything is mounted."""
        self.folder("dev")
        self._entry("dev/console", stat.S_IFCHR | 0o600, device=CONSOLE)

    def tree(self, root: Path) -> None:
        """Everything below a folder."""
        for path in _walk(root):
            name = str(path.relative_to(root))
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                self.link(name, str(path.readlink()))
            elif stat.S_ISDIR(found.st_mode):
                self.folder(name, stat.S_IMODE(found.st_mode))
            elif stat.S_ISREG(found.st_mode):
                self.file(name, path.read_bytes(), stat.S_IMODE(found.st_mode))

    def close(self) -> None:
        """Write the end; another archive may follow in the same file."""
        self._entry("TRAILER!!!", 0)

    def _entry(
        self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._number += 1
        raw = name.encode() + b"\0"
        links = 1
        fields = (self._number, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(raw), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._output.write(_padded(header + raw) + _padded(content))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        for name in sorted([*folders, *files]):
            yield Path(folder) / name
