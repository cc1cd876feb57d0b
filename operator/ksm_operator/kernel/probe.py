"""What this kernel can do, found by trying it on a child of ours that dies for it.

A version string says what was released, not what a distribution put back into it. Only where
nothing can be tried without harm is the kernel's own list of functions asked.
"""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ksm_operator.kernel import fanotify
from ksm_operator.kernel.cgroupfs import find_memory_hierarchy
from ksm_operator.kernel.errors import KernelError, Unsupported
from ksm_operator.kernel.ksm_stat import read_ksm_stat
from ksm_operator.kernel.procfs import PROC, find_process
from ksm_operator.kernel.sysfs import KSM_ROOT, KsmSysfs
from ksm_operator.kernel.tracer import Tracer, may_suspend_seccomp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ksm_operator.kernel.ksm_stat import KsmStat

CHILD: Final = Path(__file__).with_name("probe_child.py")
CHILD_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.02

JUMPS_OVER_HOLES: Final = b" ksm_next_page_pmd_entry\n"
"""A function of ksmd that came with the walk over page tables (f5548c318d65, Linux 6.18)."""
KSMD: Final = b" ksm_scan_thread\n"
"""The function that ksmd is, as long as its name is told."""
SYMBOLS_CHUNK: Final = 1 << 16

SCANS_TO_NOTICE: Final = 2
"""Scans after which ksmd has seen every process that it knows of."""

Method = Literal["Prctl", "Madvise"]

MAY_STAY_OPEN: Final = ("exec_merges", "scan_skips_holes", "unmerge_keeps_flags")
"""Features that it may not be possible to find out."""

TOLD_OTHERWISE: Final = ("has_ksm", "has_general_profit", "fork_inherits")
"""Features without which there is no method, or no profit in the figures."""


@dataclass(frozen=True, slots=True)
class KernelFeatures:
    """What was found. None: it could not be found out, and the cautious answer is the right one.

    Attributes:
        release: as uname says it.
        machine: as uname says it.
        has_ksm: /sys/kernel/mm/ksm is there.
        method: how processes are enrolled: `Prctl` (6.4) where the kernel has it, else `Madvise`;
            None where neither can be done.
        unsupported: one sentence that says why `method` is None; None when it is not.
        fork_inherits: a child keeps merging.
        exec_inherits: a program keeps merging across exec (6.7).
        exec_merges: and ksmd scans it, which 6.7 to 6.9 do not do; see `probe_exec`.
        new_ranges_join: new mappings become one with their neighbours while merging is on (6.17);
            else a program that maps much comes closer to vm.max_map_count.
        scan_skips_holes: ksmd does not look at every address of a large reservation (6.18).
        unmerge_keeps_flags: MADV_UNMERGEABLE leaves VMA flags above bit 31 alone (f04aad36a07c).
        ksm_stat_shows_flag: /proc/PID/ksm_stat says whether merging is on (6.14).
        has_general_profit: ksmd says what its records cost (6.4).
        has_advisor: ksmd can tune itself (6.8).
        has_smart_scan: ksmd can skip pages that did not merge (6.7).
        smaps_shows_merged: smaps says how much of a range is merged (6.6).
        has_fanotify: new cgroups are noticed without a watch per directory (6.6).
        can_suspend_seccomp: a target's seccomp filter can be kept out of our calls.
        cgroup_version: 1 or 2; None where no memory controller is mounted.
    """

    release: str
    machine: str
    has_ksm: bool
    method: Method | None
    unsupported: str | None
    fork_inherits: bool
    exec_inherits: bool
    exec_merges: bool | None
    new_ranges_join: bool
    scan_skips_holes: bool | None
    unmerge_keeps_flags: bool | None
    ksm_stat_shows_flag: bool
    has_general_profit: bool
    has_advisor: bool
    has_smart_scan: bool
    smaps_shows_merged: bool
    has_fanotify: bool
    can_suspend_seccomp: bool
    cgroup_version: int | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    def names(self) -> list[str]:
        """What the kernel can do, and as `...Unknown` what could not be found out.

        At most 11 names of at most 24 characters: a status has room for 12. What `method` and
        ksmd's own figures tell anyway is not among them.
        """
        return [
            name.title().replace("_", "") + ("Unknown" if value is None else "")
            for name, value in sorted(asdict(self).items())
            if (value is True and name not in TOLD_OTHERWISE)
            or (value is None and name in MAY_STAY_OPEN)
        ]


def probe(*, proc: Path = PROC, ksm_root: Path = KSM_ROOT) -> KernelFeatures:
    """Try this kernel; starts one short-lived child and touches no other process, nor ksmd.

    Raises:
        KernelError: the child could not be started, or said nothing.
    """
    release, machine = platform.release(), platform.machine()
    has_ksm = (ksm_root / "run").exists()
    tried = _ask_child() if has_ksm else {}
    unsupported = _unsupported(release, has_ksm=has_ksm)
    method: Method = "Prctl" if tried.get("takes_prctl") else "Madvise"
    has_fanotify, version = False, None
    try:
        hierarchy = find_memory_hierarchy(proc=proc)
    except KernelError:
        pass
    else:
        has_fanotify, version = fanotify.works_on(hierarchy.mount), hierarchy.version
    own = _own_stat(proc)
    return KernelFeatures(
        release=release,
        machine=machine,
        has_ksm=has_ksm,
        method=method if unsupported is None else None,
        unsupported=unsupported,
        fork_inherits=bool(tried.get("fork_inherits")),
        exec_inherits=bool(tried.get("exec_inherits")),
        exec_merges=None if tried.get("exec_inherits") else False,
        new_ranges_join=bool(tried.get("new_ranges_join")),
        scan_skips_holes=_jumps_over_holes(proc),
        unmerge_keeps_flags=tried.get("unmerge_keeps_flags"),
        ksm_stat_shows_flag=own is not None and own.merge_any is not None,
        has_general_profit=(ksm_root / "general_profit").exists(),
        has_advisor=(ksm_root / "advisor_mode").exists(),
        has_smart_scan=(ksm_root / "smart_scan").exists(),
        smaps_shows_merged=_smaps_shows_merged(proc),
        has_fanotify=has_fanotify,
        can_suspend_seccomp=may_suspend_seccomp(proc=proc),
        cgroup_version=version,
    )


def probe_exec(
    sysfs: KsmSysfs,
    seconds: float,
    *,
    stopped: Callable[[], bool] = lambda: False,
    proc: Path = PROC,
) -> bool | None:
    """Whether ksmd really merges a program that has inherited merging across exec.

    Ksmd is only watched, never started: call it where it runs anyway. Two children hold equal pages
    of their own meanwhile; the one that did not exec says when ksmd has come round.

    Args:
        sysfs: ksmd's files.
        seconds: how long to wait for it.
        stopped: asked again and again: whether to give up.
        proc: the proc file system.

    Returns:
        The answer for `KernelFeatures.exec_merges`; None where ksmd stands still, did not come
        round in time, or it was given up.
    """
    if sysfs.read().run != 1:
        return None
    deadline = time.monotonic() + seconds
    with _held("hold") as plain, _held("exec-and-hold") as execed:
        noticed: int | None = None
        while time.monotonic() < deadline and not stopped():
            scans = sysfs.read().full_scans or 0
            if _is_merged(execed, proc):
                return True
            if noticed is None and _is_merged(plain, proc):
                noticed = scans
            if noticed is not None and scans > noticed + SCANS_TO_NOTICE:
                return False
            time.sleep(LOOK_SECONDS)
    return None


def _is_merged(pid: int, proc: Path) -> bool:
    return bool(read_ksm_stat(find_process(pid, proc=proc), proc=proc).merging_pages)


@contextlib.contextmanager
def _held(how: str) -> Iterator[int]:
    """A child of ours that merges, by its pid."""
    with subprocess.Popen(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-I", "-S", str(CHILD), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        try:
            assert child.stdout is not None
            if not child.stdout.readline():
                raise KernelError("the probing child could not hold memory")
            yield child.pid
        finally:
            child.kill()


def _unsupported(release: str, *, has_ksm: bool) -> str | None:
    try:
        Tracer()
    except Unsupported as error:
        return str(error)
    if not has_ksm:
        return f"Kernel {release} has no KSM: it was built without CONFIG_KSM."
    return None


def _ask_child() -> dict[str, bool | None]:
    try:
        answer = subprocess.run(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-I", "-S", str(CHILD)],
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=False,
        )
        answers: dict[str, bool | None] = json.loads(answer.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"the probing child failed: {error}") from error
    except ValueError as error:
        said = answer.stderr.strip() or f"status {answer.returncode}"
        raise KernelError(f"the probing child failed: {said}") from error
    return answers


def _own_stat(proc: Path) -> KsmStat | None:
    try:
        pid = int((proc / "self").readlink().name)
        return read_ksm_stat(find_process(pid, proc=proc), proc=proc)
    except (KernelError, OSError):
        return None


def _smaps_shows_merged(proc: Path) -> bool:
    try:
        return b"\nKSM:" in (proc / "self/smaps_rollup").read_bytes()
    except OSError:
        return False


def _jumps_over_holes(proc: Path) -> bool | None:
    """By the kernel's own functions: what it costs shows only where ksmd runs, and hurts there."""
    lists_ksmd = False
    before = b""
    try:
        with (proc / "kallsyms").open("rb") as symbols:
            # Hundreds of thousands of lines: by the chunk, or it is most of what probing costs.
            while chunk := symbols.read(SYMBOLS_CHUNK):
                text = before + chunk
                if JUMPS_OVER_HOLES in text:
                    return True
                lists_ksmd = lists_ksmd or KSMD in text
                before = text[-len(JUMPS_OVER_HOLES) :]
    except OSError:
        return None
    return False if lists_ksmd else None
