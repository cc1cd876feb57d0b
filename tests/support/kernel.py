"""The truth about merging on this machine, straight from /proc and /sys."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

KSM = Path("/sys/kernel/mm/ksm")
PROC = Path("/proc")
WRITABLE_BY_OWNER = 0o200
FORGET_SECONDS = 10
# Header to VmFlags of a range that is private, writable and of no file; proc_pid_smaps(5).
_ANONYMOUS = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ rw.p [0-9a-f]+ 00:00 0(?: +\[heap\])? *\n"
    r"(?:[A-Z]\w+:.*\n)*?VmFlags:(.*)$",
    re.MULTILINE,
)
_REFUSED_WHILE_SHARED = ("merge_across_nodes", "max_page_sharing")
DEFAULTS: dict[str, int | str] = {
    "run": 0,
    "advisor_mode": "none",
    "pages_to_scan": 100,
    "sleep_millisecs": 20,
    "merge_across_nodes": 1,
    "max_page_sharing": 256,
    "stable_node_chains_prune_millisecs": 2000,
    "use_zero_pages": 0,
    "smart_scan": 1,
    "advisor_max_cpu": 70,
    "advisor_target_scan_time": 200,
    "advisor_min_pages_to_scan": 500,
    "advisor_max_pages_to_scan": 30000,
}
"""What the kernel begins with (mm/ksm.c, Linux 6.1 to 7.2, as far as it has the file); in this
order, because the advisor owns pages_to_scan while it is on."""


def merge_any(pid: int) -> bool | None:
    """Whether the process merges whatever it maps (PR_SET_MEMORY_MERGE); None if it is gone.

    From /proc/PID/ksm_stat, Linux 6.14 or newer. Before that it shows in the ranges only: all of
    its anonymous memory is mergeable, but for what the kernel may drop (`dp`).
    """
    try:
        text = (PROC / str(pid) / "ksm_stat").read_text()
        smaps = "" if "ksm_merge_any" in text else (PROC / str(pid) / "smaps").read_text()
    except OSError:
        return None
    if not text:  # on its way out, without memory
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "ksm_merge_any":
            return value.strip() == "yes"
    flags = [match[1].split() for match in _ANONYMOUS.finditer(smaps)]
    return bool(flags) and all("mg" in each or "dp" in each for each in flags)


def merging_processes() -> set[int]:
    """Every process of the machine that merges whatever it maps."""
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
    return {pid for pid in pids if merge_any(pid)}


def merged_pages(pid: int) -> int:
    """Pages of the process that are mapped to a merged page now."""
    return int((PROC / str(pid) / "ksm_merging_pages").read_text())


def resident_bytes(pid: int) -> int:
    """The memory that a process has in use, merged pages included."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def counter(name: str) -> int:
    """One number under /sys/kernel/mm/ksm."""
    return int((KSM / name).read_text())


def settings() -> dict[str, bytes]:
    """Every writable file under /sys/kernel/mm/ksm, byte for byte."""
    return {
        file.name: file.read_bytes()
        for file in sorted(KSM.iterdir())
        if file.stat().st_mode & WRITABLE_BY_OWNER
    }


def write_setting(name: str, value: int | str) -> None:
    """Write one file under /sys/kernel/mm/ksm, as an administrator does."""
    (KSM / name).write_text(f"{value}\n")


def restore(before: dict[str, bytes]) -> None:
    """Write back what `settings` has read, where it differs.

    Switching the advisor changes pages_to_scan, so the mode goes first, and ksmd itself last.
    """
    if any(settings().get(name) != before.get(name) for name in _REFUSED_WHILE_SHARED):
        forget_the_dead()
    names = ["advisor_mode", *(name for name in before if name not in ("advisor_mode", "run"))]
    for name in [*names, "run"]:
        if name in before and (KSM / name).read_bytes() != before[name]:
            write_setting(name, _value(before[name]))


def forget_the_dead() -> None:
    """Let ksmd notice that the processes of its pages ended: it counts them until it looks."""
    deadline = time.monotonic() + FORGET_SECONDS
    if counter("pages_shared") and not merging_processes():
        run = counter("run")
        write_setting("run", 1)
        while counter("pages_shared") and time.monotonic() < deadline:
            time.sleep(0.05)
        write_setting("run", run)


def _value(raw: bytes) -> str:
    text = raw.decode().strip()
    return text[text.index("[") + 1 : text.index("]")] if "[" in text else text


@contextlib.contextmanager
def settings_put_back() -> Iterator[dict[str, bytes]]:
    """Put every writable file back at the end, whatever happened in between."""
    forget_the_dead()
    before = settings()
    try:
        yield before
    finally:
        restore(before)


@contextlib.contextmanager
def as_booted() -> Iterator[dict[str, bytes]]:
    """The values of a kernel that nobody has tuned; what was there before is put back at the end.

    Yields what all the writable files hold meanwhile.
    """
    with settings_put_back() as before:
        for name, value in DEFAULTS.items():
            if name in before and _value((KSM / name).read_bytes()) != str(value):
                write_setting(name, value)
        yield settings()


def ksmd_pid() -> int:
    """The process id of ksmd."""
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # A kernel thread has no command line; a program may call itself ksmd too.
                if (entry / "comm").read_text() == "ksmd\n" and not (
                    entry / "cmdline"
                ).read_bytes():
                    return int(entry.name)
    raise LookupError("no ksmd runs: this kernel has no KSM (CONFIG_KSM)")


def ksmd_cpu_seconds() -> float:
    """CPU time that ksmd has used since boot (first field of schedstat, nanoseconds)."""
    return int((PROC / str(ksmd_pid()) / "schedstat").read_text().split()[0]) / 1e9


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if it is gone.

    With the pid it names a process for good: pids are used again.
    """
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def is_root() -> bool:
    """Whether this runs as root."""
    return os.geteuid() == 0
