"""A tree of plain files as ksmd's: what the kernel refuses is tested on the kernel."""

from pathlib import Path

FOUND = {"run": 0, "pages_to_scan": 100, "sleep_millisecs": 20, "smart_scan": 1, "full_scans": 7}
"""What a machine has in them after boot."""


def found(directory: Path) -> Path:
    """Make them in this directory, and return it."""
    for name, value in FOUND.items():
        (directory / name).write_text(f"{value}\n")
    return directory


def held(root: Path) -> dict[str, int]:
    """What the files hold."""
    return {name: int((root / name).read_text()) for name in FOUND}
