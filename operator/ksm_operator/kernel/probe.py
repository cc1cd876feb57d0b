"""What this kernel can do, found by trying it on a child of ours that dies for it."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from ksm_operator.kernel import fanotify
from ksm_operator.kernel.cgroupfs import find_memory_hierarchy
from ksm_operator.kernel.errors import KernelError
from ksm_operator.kernel.procfs import PROC, find_process, read_ksm_stat
from ksm_operator.kernel.sysfs import KSM_ROOT
from ksm_operator.kernel.tracer import may_suspend_seccomp

if TYPE_CHECKING:
    from pathlib import Path

MACHINES: Final = ("x86_64",)

# First life (its own text as argument): ask for merging. Second, after an exec: is it still on?
_CHILD: Final = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if len(sys.argv) > 2:
    print(sys.argv[2], libc.prctl(68, 0, 0, 0, 0))
else:
    code, answer = sys.argv[1], libc.prctl(67, 1, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", code, code, str(answer)])
"""


@dataclass(frozen=True, slots=True)
class KernelFeatures:
    """What was found.

    Attributes:
        release: as uname says it.
        machine: as uname says it.
        has_ksm: /sys/kernel/mm/ksm is there.
        method: how processes are enrolled: `Prctl`, or None where it cannot be done.
        unsupported: one sentence that says why `method` is None; None when it is not.
        exec_inherits: a program keeps merging across exec.
        ksm_stat_shows_flag: /proc/PID/ksm_stat says whether merging is on (6.14).
        has_general_profit: ksmd says what its records cost (6.4).
        has_advisor: ksmd can tune itself (6.8).
        has_smart_scan: ksmd can skip pages that did not merge (6.7).
        has_fanotify: new cgroups are noticed without a watch per directory (6.6).
        can_suspend_seccomp: a target's seccomp filter can be kept out of our calls.
        cgroup_version: 1 or 2; None where no memory controller is mounted.
    """

    release: str
    machine: str
    has_ksm: bool
    method: Literal["Prctl"] | None
    unsupported: str | None
    exec_inherits: bool
    ksm_stat_shows_flag: bool
    has_general_profit: bool
    has_advisor: bool
    has_smart_scan: bool
    has_fanotify: bool
    can_suspend_seccomp: bool
    cgroup_version: int | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def probe(*, proc: Path = PROC, ksm_root: Path = KSM_ROOT) -> KernelFeatures:
    """Try this kernel; starts one short-lived child and touches no other process."""
    release, machine = platform.release(), platform.machine()
    has_ksm = (ksm_root / "run").exists()
    takes_prctl, exec_inherits = _ask_child() if has_ksm else (False, False)
    unsupported = _unsupported(release, machine, has_ksm=has_ksm, takes_prctl=takes_prctl)
    has_fanotify, version = False, None
    try:
        hierarchy = find_memory_hierarchy(proc=proc)
    except KernelError:
        pass
    else:
        has_fanotify, version = fanotify.works_on(hierarchy.mount), hierarchy.version
    return KernelFeatures(
        release=release,
        machine=machine,
        has_ksm=has_ksm,
        method="Prctl" if unsupported is None else None,
        unsupported=unsupported,
        exec_inherits=exec_inherits,
        ksm_stat_shows_flag=_shows_flag(proc),
        has_general_profit=(ksm_root / "general_profit").exists(),
        has_advisor=(ksm_root / "advisor_mode").exists(),
        has_smart_scan=(ksm_root / "smart_scan").exists(),
        has_fanotify=has_fanotify,
        can_suspend_seccomp=may_suspend_seccomp(proc=proc),
        cgroup_version=version,
    )


def _unsupported(release: str, machine: str, *, has_ksm: bool, takes_prctl: bool) -> str | None:
    if machine not in MACHINES:
        return f"Machine {machine} is not supported: only {', '.join(MACHINES)} is."
    if not has_ksm:
        return f"Kernel {release} has no KSM: it was built without CONFIG_KSM."
    if not takes_prctl:
        return f"Kernel {release} does not know PR_SET_MEMORY_MERGE: Linux 6.4 or later is needed."
    return None


def _ask_child() -> tuple[bool, bool]:
    """(takes the prctl, keeps it across exec)."""
    answer = subprocess.run(  # noqa: S603 - our own interpreter and our own text
        [sys.executable, "-I", "-S", "-c", _CHILD, _CHILD],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    words = answer.stdout.split()
    if len(words) != 2:  # noqa: PLR2004 - two answers
        raise KernelError(f"the probing child failed: {answer.stderr.strip() or answer.returncode}")
    return words[0] == "0", words[1] == "1"


def _shows_flag(proc: Path) -> bool:
    try:
        pid = int((proc / "self").readlink().name)
        return read_ksm_stat(find_process(pid, proc=proc), proc=proc).merge_any is not None
    except (KernelError, OSError):
        return False
