"""`ksm-node` as a person calls it."""

import json
import subprocess
import sys
from pathlib import Path

from kernel.conftest import Start
from ksm_operator.kernel import AgentLock
from support import kernel

COMMAND = (sys.executable, "-m", "ksm_operator.node")


def ksm_node(*arguments: str, lock: Path) -> "subprocess.CompletedProcess[str]":
    """Run it."""
    return subprocess.run(
        [*COMMAND, "--lock", str(lock), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "operator"), "PATH": "/usr/bin:/bin"},
    )


def test_enrol_status_release(start: Start, tmp_path: Path) -> None:
    """The three commands in the order in which a person uses them."""
    lock = tmp_path / "lock"
    target = start("sh", "-c", "echo ready; read line")
    target.wait_for_state("S")
    done = ksm_node("enrol", str(target.pid), lock=lock)
    assert done.returncode == 0, done.stderr
    assert "merging is on" in done.stdout
    assert kernel.merge_any(target.pid)
    shown = ksm_node("-o", "json", "status", lock=lock)
    assert shown.returncode == 0, shown.stderr
    status = json.loads(shown.stdout)
    assert target.pid in {process["pid"] for process in status["processes"]}
    assert status["kernel"]["method"] == "Prctl"
    text = ksm_node("status", lock=lock).stdout
    assert str(target.pid) in text
    done = ksm_node("-o", "json", "release", str(target.pid), lock=lock)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["result"] == "Released"
    assert not kernel.merge_any(target.pid)


def test_refuses_while_an_agent_lives(start: Start, tmp_path: Path) -> None:
    """Two hands on one node would undo each other; looking is allowed."""
    target = start("sh", "-c", "echo ready; read line")
    lock = AgentLock(tmp_path / "lock")
    assert lock.acquire()
    try:
        done = ksm_node("enrol", str(target.pid), lock=lock.path)
        assert done.returncode == 2
        assert "an agent manages this node" in done.stderr
        assert not kernel.merge_any(target.pid)
        assert ksm_node("status", lock=lock.path).returncode == 0
    finally:
        lock.release()


def test_process_that_is_not_there(ksm: None, tmp_path: Path) -> None:
    """Said in words, with an exit status that scripts can use."""
    done = ksm_node("enrol", "4194304", lock=tmp_path / "lock")
    assert done.returncode == 1
    assert "is gone" in done.stdout


def test_not_root(ksm: None, tmp_path: Path) -> None:
    """Refused before anything is read."""
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *COMMAND, "status"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "operator")},
    )
    assert done.returncode == 2
    assert "root is needed" in done.stderr
