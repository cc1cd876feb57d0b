"""What a probe finds is what this kernel does, and it leaves no trace."""

import ctypes
import inspect
import os
import platform
import time
from dataclasses import fields
from pathlib import Path

import pytest

from ksm_operator.kernel import KernelFeatures, KsmSysfs, probe, probe_exec
from support import kernel

RELEASE = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


def test_it_matches_what_releases_are_known_for(ksm: None) -> None:
    """A probe that errs would choose a method that hurts; a backport may only make it better."""
    found = probe()
    assert found.unsupported is None
    assert found.has_ksm
    assert found.method == ("Prctl" if RELEASE >= (6, 4) else "Madvise")
    assert found.fork_inherits == (RELEASE >= (6, 4))
    assert found.exec_inherits == (RELEASE >= (6, 7))
    assert found.exec_merges is (None if found.exec_inherits else False)
    if RELEASE >= (6, 17):
        assert found.new_ranges_join
    if RELEASE >= (6, 18):
        assert found.scan_skips_holes
        assert found.unmerge_keeps_flags
    assert found.ksm_stat_shows_flag == (RELEASE >= (6, 14))
    assert found.smaps_shows_merged == (RELEASE >= (6, 6))
    assert found.has_advisor == (RELEASE >= (6, 8))


def test_flags_can_be_had_to_try_with(ksm: None) -> None:
    """Unknown means that releases fall back to one long call: it must not be the usual answer."""
    assert probe().unmerge_keeps_flags is not None


def test_it_touches_neither_ksmd_nor_us(ksm_settings: dict[str, bytes]) -> None:
    """On a node that is somebody else's nothing may change before the node is ours."""
    merging = kernel.merging_processes()
    before = kernel.settings()
    probe()
    assert kernel.settings() == before
    assert kernel.merging_processes() <= merging
    assert ctypes.CDLL(None).prctl(68, 0, 0, 0, 0) != 1
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
    assert not any(b"probe_child" in command for command in commands)


def test_what_exec_leads_to_is_unknown_while_ksmd_stands(ksm_settings: dict[str, bytes]) -> None:
    """It is never started for a probe."""
    kernel.write_setting("run", 0)
    assert probe_exec(KsmSysfs(), 5.0) is None
    assert kernel.counter("run") == 0


def test_an_execed_program_is_really_merged(ksmd: None) -> None:
    """The flag alone is no proof: 6.7 to 6.9 show it and never scan the program."""
    found = probe()
    if not found.exec_inherits:
        pytest.skip("this kernel drops merging on exec: Linux 6.7 or later is needed")
    started = time.monotonic()
    answer = probe_exec(KsmSysfs(), 40.0)
    print(f"exec merges: {answer}, found out in {time.monotonic() - started:.1f} s")
    assert answer is (not (6, 7) <= RELEASE <= (6, 9))


def test_every_field_is_explained() -> None:
    """A status that people read needs a meaning for each of its words."""
    explained = inspect.getdoc(KernelFeatures) or ""
    for field in fields(KernelFeatures):
        assert f"\n    {field.name}: " in explained
