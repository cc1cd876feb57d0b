"""Who else writes to ksmd's files."""

import os
import subprocess
from pathlib import Path

import pytest

from kernel.conftest import wait_until
from ksm_operator.agent.knobs import Knobs
from ksm_operator.agent.state import State
from ksm_operator.kernel import HOST_KSM_ROOT, KsmSysfs, OtherWriters
from support import kernel


def write_as_an_admin(value: int, root: Path = kernel.KSM) -> None:
    """From another process."""
    subprocess.run(["sh", "-c", f"echo {value} > {root}/run"], check=True)


ROOTS = [kernel.KSM, *({HOST_KSM_ROOT} if os.access(HOST_KSM_ROOT / "run", os.W_OK) else ())]
"""Where pid 1's files can be written."""


@pytest.mark.parametrize("root", ROOTS)
def test_a_write_of_the_value_that_is_there_is_noticed(
    ksm_settings: dict[str, bytes], root: Path
) -> None:
    """A 0 while ksmd stands still is an admin's word all the same.

    The host's sysfs may have other inodes than ours, and whoever writes there is seen there alone.
    """
    writers = OtherWriters([root / "run"])
    kernel.write_setting("run", 0)
    assert not writers.wrote(), "what we write ourselves is no news"
    write_as_an_admin(0, root)
    wait_until(writers.wrote, "another one wrote")
    assert not writers.wrote(), "it is told once"
    writers.close()


def test_an_admins_stop_in_a_pause_of_ours_stays(ksm_settings: dict[str, bytes]) -> None:
    """The CPU limit stops ksmd many times a second, and any admin's word may come in between."""
    writers = OtherWriters([kernel.KSM / "run"])
    ours = Knobs(KsmSysfs(), State("boot"), lambda: None, writers.wrote)
    ours.apply({"run": 1})
    ours.apply({"run": 0})
    write_as_an_admin(0)
    ours.apply({"run": 1})
    assert kernel.counter("run") == 0
    assert ours.state.yielded == {"run"}
    writers.close()


def test_an_admins_stop_that_ours_has_overtaken_is_made_good(
    ksm_settings: dict[str, bytes],
) -> None:
    """It comes between the look and the 1: what was overwritten the kernel tells nobody."""

    class Overtaken(KsmSysfs):
        def write(self, name: str, value: int | str) -> None:
            if value == 1:
                write_as_an_admin(0)
            super().write(name, value)

    kernel.write_setting("run", 0)
    writers = OtherWriters([kernel.KSM / "run"])
    ours = Knobs(Overtaken(), State("boot"), lambda: None, writers.wrote)
    ours.apply({"run": 1})
    assert kernel.counter("run") == 1
    ours.notice()
    assert kernel.counter("run") == 0
    assert ours.state.yielded == {"run"}
    write_as_an_admin(1)
    ours.apply({"run": 0})
    assert kernel.counter("run") == 1, "their second word is left alone"
    writers.close()
