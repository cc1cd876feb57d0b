"""ksmd's files under /sys/kernel/mm/ksm: typed reading, and writing that cannot go wrong.

What each file is, and what it takes, stands in `sysfs_files`.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from ksm_operator.kernel.errors import (
    KernelError,
    SysfsBusy,
    SysfsError,
    SysfsInvalid,
    SysfsReadOnly,
    Unsupported,
)
from ksm_operator.kernel.sysfs_files import ADVISOR_MODES, FILES

KSM_ROOT: Final = Path("/sys/kernel/mm/ksm")
HOST_KSM_ROOT: Final = Path("/proc/1/root/sys/kernel/mm/ksm")
RUN_WRITTEN: Final = 3
"""The bits of `run` that come from whoever wrote to it: KSM_RUN_MERGE and KSM_RUN_UNMERGE."""
VALUE_BYTES: Final = 4096
"""The kernel shows at most a page of a file in sysfs."""


@dataclass(frozen=True, slots=True)
class KsmValues:
    """Every file of the directory at about one moment; None where this kernel has no such file.

    Counters are pages unless their name says otherwise, and they stand still while `run` is 0.

    Attributes:
        run: 0 stopped (merged pages stay), 1 scanning, 2 unmerge all.
        pages_to_scan: pages per batch.
        sleep_millisecs: pause between batches.
        merge_across_nodes: 0 keeps one tree per NUMA node (kernels with NUMA only).
        max_page_sharing: most mappings of one merged page.
        stable_node_chains_prune_millisecs: how often long chains are pruned.
        use_zero_pages: 1 maps pages of zeroes to the kernel's zero page.
        smart_scan: 1 skips pages that did not merge before (6.7).
        advisor_mode: `none` or `scan-time` (6.8).
        advisor_max_cpu: percent of one CPU that the advisor may use (6.8).
        advisor_target_scan_time: seconds one full scan should take (6.8).
        advisor_min_pages_to_scan: where the advisor starts (6.8).
        advisor_max_pages_to_scan: what the advisor never exceeds (6.8).
        full_scans: completed passes over all mergeable memory.
        pages_shared: merged pages kept.
        pages_sharing: further mappings of them, which is what was saved.
        pages_unshared: pages found unique.
        pages_volatile: pages that changed too fast.
        pages_scanned: pages looked at since boot (6.6).
        pages_skipped: pages that smart_scan left out (6.7).
        ksm_zero_pages: mappings of the zero page made by ksmd (6.6).
        stable_node_chains: chains of pages that reached `max_page_sharing`.
        stable_node_dups: pages in those chains.
        general_profit: bytes saved less ksmd's own records; may be negative (6.4).
    """

    run: int | None = None
    pages_to_scan: int | None = None
    sleep_millisecs: int | None = None
    merge_across_nodes: int | None = None
    max_page_sharing: int | None = None
    stable_node_chains_prune_millisecs: int | None = None
    use_zero_pages: int | None = None
    smart_scan: int | None = None
    advisor_mode: str | None = None
    advisor_max_cpu: int | None = None
    advisor_target_scan_time: int | None = None
    advisor_min_pages_to_scan: int | None = None
    advisor_max_pages_to_scan: int | None = None
    full_scans: int | None = None
    pages_shared: int | None = None
    pages_sharing: int | None = None
    pages_unshared: int | None = None
    pages_volatile: int | None = None
    pages_scanned: int | None = None
    pages_skipped: int | None = None
    ksm_zero_pages: int | None = None
    stable_node_chains: int | None = None
    stable_node_dups: int | None = None
    general_profit: int | None = None

    def get(self, name: str) -> int | str | None:
        """The value of one file by its name; None where this kernel has none."""
        value: int | str | None = getattr(self, name)
        return value

    def saved_bytes(self, page_size: int) -> int:
        """Memory that merging gives back on this node, before ksmd's own records."""
        return ((self.pages_sharing or 0) + (self.ksm_zero_pages or 0)) * page_size


def parse_advisor_mode(text: str) -> str:
    """The chosen word of `[none] scan-time`.

    Raises:
        KernelError: no word is in brackets.
    """
    start, end = text.find("["), text.find("]")
    if start < 0 or end < start:
        raise KernelError(f"advisor_mode reads {text!r}: no mode is in brackets")
    return text[start + 1 : end]


def _parse(root: Path, name: str, text: str) -> int | str:
    try:
        if name == "advisor_mode":
            return parse_advisor_mode(text)
        # While memory goes offline the kernel adds KSM_RUN_OFFLINE to what was written to it.
        return int(text) & RUN_WRITTEN if name == "run" else int(text)
    except (KernelError, ValueError) as error:
        expected = FILES[name].unit
        raise SysfsError(
            root / name, f"reads {text[:80]!r}, which is not its value ({expected})"
        ) from error


class KsmSysfs:
    """One node's ksmd files.

    Attributes:
        root: the directory, /sys/kernel/mm/ksm or the host's through /proc/1/root.
    """

    def __init__(self, root: Path = KSM_ROOT) -> None:
        self.root = root

    def read(self) -> KsmValues:
        """All files at about this moment.

        Raises:
            Unsupported: the directory is not there (kernel built without CONFIG_KSM).
            SysfsError: a file cannot be read, or holds something that is none of its values.
        """
        if not self.root.is_dir():
            raise Unsupported(f"{self.root} does not exist: this kernel has no KSM (CONFIG_KSM)")
        values: dict[str, int | str] = {}
        directory = os.fspath(self.root)
        for field in fields(KsmValues):
            try:
                # An agent does this every second or two for as long as its node lives.
                fd = os.open(f"{directory}/{field.name}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    text = os.read(fd, VALUE_BYTES).decode("ascii", errors="replace").strip()
                finally:
                    os.close(fd)
            except FileNotFoundError:
                continue
            except OSError as error:
                path = self.root / field.name
                raise SysfsError(path, f"cannot be read: {error.strerror}") from error
            values[field.name] = _parse(self.root, field.name, text)
        return KsmValues(**values)  # type: ignore[arg-type]  # checked field by field above

    @property
    def unfinished(self) -> str:
        """The file whose last write goes on yet; here none does, ever."""
        return ""

    @property
    def failed(self) -> bool:
        """Whether the last write that went on by itself was refused in the end; here none does."""
        return False

    def write(self, name: str, value: int | str) -> None:
        """Write one file.

        Raises:
            SysfsInvalid: no such writable file, a value outside its range, `run` = 2, or the
                kernel's EINVAL (pages_to_scan while the advisor runs).
            SysfsBusy: not while pages are shared (merge_across_nodes, max_page_sharing).
            SysfsReadOnly: mounted read-only or not permitted.
            Unsupported: this kernel has no such file.
        """
        path = self.root / name
        check_value(path, name, value)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, f"{value}\n".encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise _translated(path, value, error) from error


def check_value(path: Path, name: str, value: int | str) -> None:
    """Refuse what must never reach the kernel.

    Raises:
        SysfsInvalid: see `KsmSysfs.write`.
    """
    if name == "advisor_mode":
        if value not in ADVISOR_MODES:
            raise SysfsInvalid(path, f"{value!r} is not one of {', '.join(ADVISOR_MODES)}")
        return
    file = FILES.get(name)
    if file is None or file.allowed is None:
        raise SysfsInvalid(path, "not a file that may be written")
    low, high = file.allowed
    if isinstance(value, str | bool) or not low <= value <= high:
        raise SysfsInvalid(
            path, f"{value!r} is not a whole number from {low} to {high} ({file.unit})"
        )


def _translated(path: Path, value: int | str, error: OSError) -> KernelError:
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return SysfsReadOnly(path, f"cannot be written ({error.strerror}): mount it read-write")
    file = FILES[path.name]
    when = file.refused or "in ksmd's present mode"
    if error.errno == errno.EBUSY:
        return SysfsBusy(path, f"the kernel refuses {value} {when}")
    if error.errno == errno.EINVAL:
        return SysfsInvalid(path, f"the kernel refuses {value} {when}")
    if error.errno == errno.ENOENT:
        return Unsupported(f"{path} does not exist on this kernel: it came with Linux {file.since}")
    return SysfsError(path, f"writing {value} failed: {error.strerror}")


def find_writable_root(candidates: tuple[Path, ...] = (KSM_ROOT, HOST_KSM_ROOT)) -> Path:
    """The first of the directories whose files can be written.

    A container's /sys is usually mounted read-only, the host's own (through /proc/1/root, with
    the host's pid namespace) is not.

    Raises:
        Unsupported: none exists.
        SysfsReadOnly: some exist, none can be written; the message says what was tried.
    """
    # Not exists(): a locked-down host refuses the look through its pid 1 with EACCES.
    present = [root for root in candidates if os.access(root / "run", os.F_OK)]
    tried = ", ".join(str(root) for root in candidates)
    if not present:
        raise Unsupported(f"none of {tried} exists: this kernel has no KSM (CONFIG_KSM)")
    for root in present:
        if os.access(root / "run", os.W_OK):
            return root
    raise SysfsReadOnly(present[0], f"read-only; tried {tried}. Mount the host's /sys read-write")
