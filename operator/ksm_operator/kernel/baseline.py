"""What ksmd's files held before our first write, and how to give that back.

Pure values: the caller reads and writes the files, and keeps the baseline where a restart finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.kernel.sysfs_files import ADVISOR_MODES, WRITABLE

if TYPE_CHECKING:
    from ksm_operator.kernel.sysfs import KsmValues

RESTORE_ORDER: Final = (
    # Refused while pages are shared, so first: nothing has been merged again by then.
    "merge_across_nodes",
    "max_page_sharing",
    "use_zero_pages",
    "smart_scan",
    "stable_node_chains_prune_millisecs",
    "advisor_max_cpu",
    "advisor_target_scan_time",
    "advisor_min_pages_to_scan",
    "advisor_max_pages_to_scan",
    # Switching the advisor off sets pages_to_scan to 100, so pages_to_scan comes after it.
    "advisor_mode",
    "pages_to_scan",
    "sleep_millisecs",
    "run",
)

PAGES_WITHOUT_ADVISOR: Final = 100
"""What the kernel writes to pages_to_scan when the advisor is switched off (mm/ksm.c)."""


@dataclass(frozen=True, slots=True)
class SavedValue:
    """One file.

    Attributes:
        before: what it held before our first write.
        written: what we wrote last; None where the kernel changed it as an effect of our write.
    """

    before: int | str
    written: int | str | None


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What to write, in this order, and what to leave alone.

    Attributes:
        writes: (file, value) in an order that the kernel accepts.
        externally_modified: files that somebody else changed after our last write.
    """

    writes: tuple[tuple[str, int | str], ...]
    externally_modified: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Every file that we wrote so far.

    Attributes:
        files: by file name.
    """

    files: Mapping[str, SavedValue] = field(default_factory=dict)

    def record(self, name: str, now: KsmValues, written: int | str) -> Baseline:
        """The baseline after writing `written` to `name`, given the values just before it.

        Store the result before the write is made: after a crash in between, `written` is then
        newer than the file, which `restore_plan` reads as unchanged.
        """
        before = now.get(name)
        if before is None:
            return self
        files = dict(self.files)
        saved = files.get(name)
        files[name] = SavedValue(saved.before if saved else before, written)
        switched = name == "advisor_mode" and written != now.advisor_mode
        if switched and now.pages_to_scan is not None:
            # Switching the advisor on or off overwrites pages_to_scan (500 or 100).
            scan = files.get("pages_to_scan")
            files["pages_to_scan"] = SavedValue(scan.before if scan else now.pages_to_scan, None)
        return Baseline(files)

    def with_file(self, name: str, saved: SavedValue | None) -> Baseline:
        """The baseline with this for one file; None for a file that we did not write."""
        files = {other: one for other, one in self.files.items() if other != name}
        return Baseline(files if saved is None else files | {name: saved})

    def to_dict(self) -> dict[str, dict[str, int | str | None]]:
        """As JSON types; `from_dict` reads it back."""
        return {
            name: {"before": saved.before, "written": saved.written}
            for name, saved in self.files.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Baseline:
        """Read back what `to_dict` gave.

        Raises:
            ValueError: a file that is never written, or a value of another type.
        """
        files: dict[str, SavedValue] = {}
        for name, entry in data.items():
            if name not in WRITABLE and name != "advisor_mode":
                raise ValueError(f"baseline: {name!r} is not a file of ksmd that is ever written")
            if not isinstance(entry, Mapping):
                raise ValueError(f"baseline: {name} holds {entry!r}, not before and written")  # noqa: TRY004 - one error for one bad document
            before, written = entry.get("before"), entry.get("written")
            if not _fits(name, before) or not (written is None or _fits(name, written)):
                raise ValueError(f"baseline: {name} holds {entry!r}")
            assert before is not None
            files[name] = SavedValue(before, written)
        return cls(files)


def _fits(name: str, value: Any) -> bool:
    if name == "advisor_mode":
        return value in ADVISOR_MODES
    return isinstance(value, int) and not isinstance(value, bool)


def restore_plan(baseline: Baseline, now: KsmValues) -> RestorePlan:
    """How to bring the files back to what they held before us.

    A file that holds neither our last value nor the one before it was changed by somebody else:
    it is left alone and named. `run` comes last. A baseline `run` above 1 (an unmerge that was
    under way) is restored as 0, which is where the kernel itself ends.
    """
    writes: list[tuple[str, int | str]] = []
    foreign: list[str] = []
    for name in RESTORE_ORDER:
        saved = baseline.files.get(name)
        value = now.get(name)
        if saved is None or value is None:
            continue
        before: int | str = saved.before
        if name == "run" and before not in (0, 1):
            before = 0
        if name == "pages_to_scan":
            if _advisor_after(writes, now) == "scan-time":
                continue  # the advisor owns it and the kernel refuses a write
            if _advisor_changes(writes):
                writes.append((name, before))
                continue
        if value == before:
            continue
        ours = PAGES_WITHOUT_ADVISOR if saved.written is None else saved.written
        if value != ours:
            foreign.append(name)
            continue
        writes.append((name, before))
    return RestorePlan(tuple(writes), tuple(foreign))


def _advisor_changes(writes: list[tuple[str, int | str]]) -> bool:
    return any(name == "advisor_mode" for name, _ in writes)


def _advisor_after(writes: list[tuple[str, int | str]], now: KsmValues) -> str | None:
    for name, value in writes:
        if name == "advisor_mode":
            return str(value)
    return now.advisor_mode
