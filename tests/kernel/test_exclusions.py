"""Processes that must be left alone are recognised as what they are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.conftest import Start
from ksm_operator.kernel import SkipReason, find_process, why_not
from ksm_operator.kernel.exclusions import is_non_dumpable, never
from ksm_operator.kernel.helper import PACKAGE_ROOT
from support import machine

WAIT = "import sys; print('ready', flush=True); sys.stdin.readline()"

SECRETIVE = f"""
import ctypes, os
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
{WAIT}
"""

LOOKER = """
import sys
sys.path.insert(0, sys.argv[1])
from ksm_operator.kernel import KernelError, find_process, why_not
try:
    print(why_not(find_process(int(sys.argv[2]))))
except KernelError as error:
    print(type(error).__name__, error)
"""


def look_without_ptrace(pid: int) -> str:
    """What root without CAP_SYS_PTRACE finds."""
    if shutil.which("setpriv") is None:
        machine.missing("This test gives up a capability", "apt-get install util-linux")
    words = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    words += [sys.executable, "-c", LOOKER, str(PACKAGE_ROOT), str(pid)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_non_dumpable_matters_only_to_those_who_may_not_look(start: Start) -> None:
    """With the agent's capabilities it is a process as any other; without, it has a name."""
    secretive = start(code=SECRETIVE)
    assert is_non_dumpable(secretive.process)
    assert never(secretive.process) is None
    assert why_not(secretive.process) is None
    assert look_without_ptrace(secretive.pid) == SkipReason.NON_DUMPABLE


def test_a_lack_of_rights_is_no_property_of_the_process(start: Start) -> None:
    """An agent without its capability must say so, and not count everybody as secretive."""
    ordinary = start(code=SECRETIVE.replace("prctl(4, 0,", "prctl(4, 1,"))
    assert not is_non_dumpable(ordinary.process)
    answer = look_without_ptrace(ordinary.pid)
    assert answer.startswith("KernelError")
    assert "CAP_SYS_PTRACE" in answer


@pytest.mark.parametrize("policy", ["SCHED_FIFO", "SCHED_RR"])
def test_real_time_policies(policy: str, start: Start) -> None:
    """Each of them waits for no page; SCHED_BATCH and SCHED_IDLE may."""
    target = start(code=WAIT)
    assert why_not(target.process) is None
    for harmless in (os.SCHED_BATCH, os.SCHED_IDLE):
        os.sched_setscheduler(target.pid, harmless, os.sched_param(0))
        assert why_not(target.process) is None
    try:
        os.sched_setscheduler(target.pid, getattr(os, policy), os.sched_param(1))
    except PermissionError:
        pytest.skip("no real-time budget in this cgroup (CONFIG_RT_GROUP_SCHED)")
    assert why_not(target.process) is SkipReason.REAL_TIME


def test_userfaultfd_is_told_before_any_range_is_registered(start: Start) -> None:
    """A program that has one open registers its memory when it pleases."""
    target = start(
        code=f"""
import ctypes, platform
number = {{"x86_64": 323, "aarch64": 282}}[platform.machine()]
assert ctypes.CDLL(None).syscall(number, 1) >= 0
{WAIT}
"""
    )
    assert why_not(target.process) is SkipReason.USERFAULTFD


def test_gvisors_kernel_is_known_by_its_program(start: Start, sentry: Path) -> None:
    """Its runtime class may have any name; its program has one."""
    target = start(str(sentry), "1", "salt")
    assert why_not(target.process) is SkipReason.SANDBOXED
    assert why_not(target.process, asked=True) is None
    sentry.unlink()
    assert why_not(target.process) is SkipReason.SANDBOXED


def test_who_asks_is_still_kept_from_harm(start: Start, sentry: Path) -> None:
    """The label of a pod overrides defaults, and none of the reasons that protect a process."""
    target = start(str(sentry), "1", "salt")
    try:
        os.sched_setscheduler(target.pid, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        pytest.skip("no real-time budget in this cgroup (CONFIG_RT_GROUP_SCHED)")
    assert why_not(target.process, asked=True) is SkipReason.REAL_TIME
    assert why_not(target.process) is SkipReason.REAL_TIME


def test_an_ordinary_process_is_not_excluded(start: Start) -> None:
    """Every row of the tables would be worth nothing if it held for everybody."""
    assert why_not(start(code=WAIT).process) is None
    assert why_not(start("sh", "-c", "echo ready; read line").process) is None
    assert why_not(find_process(os.getpid())) is None
