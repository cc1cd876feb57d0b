"""What /proc says of merging: of one process, and of the kernel thread that does it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ksm_operator.kernel.errors import KernelError, ProcessGone
from ksm_operator.kernel.procfs import (
    PROC,
    Process,
    check_alive,
    lines,
    parse_count,
    pids,
    read_file,
    read_memory_file,
    read_stat,
)

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class KsmStat:
    """What /proc/PID/ksm_stat says; None where this kernel does not say it.

    Attributes:
        rmap_items: records that ksmd keeps for this process.
        merging_pages: mapped merged pages, the one kept included: sums over processes overstate
            (5.19).
        zero_pages: mappings of the zero page made by ksmd (6.6).
        process_profit: bytes, may be negative (6.4).
        merge_any: the process (or an ancestor) used PR_SET_MEMORY_MERGE (6.14).
        mergeable: it asked for merging in either way (6.14).
    """

    rmap_items: int = 0
    merging_pages: int | None = None
    zero_pages: int | None = None
    process_profit: int | None = None
    merge_any: bool | None = None
    mergeable: bool | None = None


def parse_ksm_stat(text: str) -> KsmStat:
    """Parse /proc/PID/ksm_stat: `name value` up to 6.13, two `name: yes|no` more since 6.14."""
    values: dict[str, str] = {}
    for line in lines(text):
        parts = line.replace(":", " ").split()
        if len(parts) == 2:  # noqa: PLR2004 - a name and its value
            values[parts[0]] = parts[1]

    def number(name: str) -> int | None:
        try:
            return int(values[name])
        except (KeyError, ValueError):
            return None

    def flag(name: str) -> bool | None:
        return {"yes": True, "no": False}.get(values.get(name, ""))

    return KsmStat(
        rmap_items=number("ksm_rmap_items") or 0,
        merging_pages=number("ksm_merging_pages"),
        zero_pages=number("ksm_zero_pages"),
        process_profit=number("ksm_process_profit"),
        merge_any=flag("ksm_merge_any"),
        mergeable=flag("ksm_mergeable"),
    )


def read_ksm_stat(process: Process, *, proc: Path = PROC) -> KsmStat:
    """What the kernel says of merging in this process.

    On 6.14 and later this waits while the target holds its memory map lock.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to read it.
    """
    data = read_memory_file(process, "ksm_stat", proc=proc)
    stat = parse_ksm_stat(data.decode(errors="replace"))
    if stat.merging_pages is not None:
        return stat
    # A file of its own from 5.19 on, in ksm_stat since 6.4.
    return replace(stat, merging_pages=read_merging_pages(process, proc=proc))


def read_merging_pages(process: Process, *, proc: Path = PROC) -> int | None:
    """Mapped merged pages, as in `KsmStat`, read without any lock; None before 5.19.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to read it.
    """
    try:
        data = read_memory_file(process, "ksm_merging_pages", proc=proc)
    except ProcessGone:
        check_alive(process, proc=proc)
        return None
    return parse_count(data.decode(errors="replace"))


def find_ksmd(*, proc: Path = PROC) -> int | None:
    """The pid of ksmd; None in a pid namespace that does not show kernel threads."""
    for pid in pids(proc=proc):
        try:
            stat = read_stat(pid, proc=proc)
        except ProcessGone:
            continue
        if stat.comm == "ksmd" and stat.is_kernel_thread:
            return pid
    return None


def ksmd_cpu_ns(pid: int, *, proc: Path = PROC) -> int:
    """Nanoseconds that ksmd spent on a CPU since boot (first field of schedstat).

    Raises:
        ProcessGone: that pid is not there.
        KernelError: the file cannot be read, or holds no number.
    """
    path = f"{proc}/{pid}/schedstat"
    text = read_file(path, pid).decode(errors="replace")
    nanoseconds = parse_count(text.partition(" ")[0])
    if nanoseconds is None:
        raise KernelError(f"{path} reads {text[:80]!r}: it does not begin with a number")
    return nanoseconds
