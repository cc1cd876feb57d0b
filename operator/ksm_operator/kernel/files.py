"""Files of our own under /run."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file whole: whoever reads it finds the old or the new one. Makes its directory.

    One writer at a time. What one that was killed half-way has left, the next one writes over.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(new, _NEW, 0o600), "wb") as file:
            file.write(data)
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
