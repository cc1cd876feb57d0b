"""`ksm-node` as a person calls it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Holders, Start
from kernel.pods import LIMIT, MIB, SIZE, merged_pods, no_kill
from kernel.test_madvise import PROGRAM, Program
from kernel.test_release import merge, mergeable_ranges
from ksm_operator.kernel import AgentLock, Hierarchy, KernelFeatures, Tracer
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


def test_enrol_status_release(start: Start, features: KernelFeatures, tmp_path: Path) -> None:
    """The three commands in the order in which a person uses them."""
    lock = tmp_path / "lock"
    target = start("sh", "-c", "echo ready; read line")
    target.wait_for_state("S")
    done = ksm_node("enrol", str(target.pid), lock=lock)
    assert done.returncode == 0, done.stderr
    assert "merging is on" in done.stdout
    assert mergeable_ranges(target.pid)
    shown = ksm_node("-o", "json", "status", lock=lock)
    assert shown.returncode == 0, shown.stderr
    status = json.loads(shown.stdout)
    assert status["kernel"]["method"] == features.method
    if features.ksm_stat_shows_flag:  # else ksmd must have looked at it
        assert target.pid in {process["pid"] for process in status["processes"]}
        assert str(target.pid) in ksm_node("status", lock=lock).stdout
    done = ksm_node("-o", "json", "release", str(target.pid), lock=lock)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["result"] == "Released"
    assert not mergeable_ranges(target.pid)


def test_what_was_marked_is_given_back_exactly_by_a_later_call(
    start: Start, tmp_path: Path
) -> None:
    """The record outlives the command: what the program marked itself stays, ours goes."""
    lock, program = tmp_path / "lock", Program(start(code=PROGRAM))
    own, plain = program.map(4), program.map(4)
    program.mark(own)
    done = ksm_node("enrol", str(program.process.pid), lock=lock)
    assert done.returncode == 0, done.stderr + done.stdout
    assert program.marked(plain) == plain.size
    done = ksm_node("release", str(program.process.pid), lock=lock)
    assert done.returncode == 0, done.stderr + done.stdout
    assert program.marked(plain) == 0
    assert program.marked(own) == own.size
    assert mergeable_ranges(program.process.pid) == 1


def test_children_give_back_what_they_have_from_their_parent(
    start: Start, cgroup: Cgroup, tmp_path: Path
) -> None:
    """Released one after the other, the first must not take along what is known of the second."""
    lock = tmp_path / "lock"
    parent = start(
        code="""
import os, signal, sys
print("ready", flush=True)
sys.stdin.readline()
print(os.fork() or signal.pause(), flush=True)
sys.stdin.readline()
"""
    )
    cgroup.add(parent.pid)
    assert ksm_node("enrol", str(parent.pid), lock=lock).returncode == 0
    parent.tell("fork")
    child = int(parent.line())
    assert mergeable_ranges(child)
    done = ksm_node("release", "--cgroup", str(cgroup.directory), lock=lock)
    assert done.returncode == 0, done.stderr + done.stdout
    assert not mergeable_ranges(parent.pid)
    assert not mergeable_ranges(child)
    done = ksm_node("release", str(child), lock=lock)
    assert done.returncode == 0
    assert "merging was off already" in done.stdout


def test_a_damaged_record_stops_the_command(start: Start, tmp_path: Path) -> None:
    """Whose the marks of a process are is guessed by nobody."""
    target = start("sh", "-c", "echo ready; read line")
    (tmp_path / "ksm-node.json").write_text("{")
    for command in ("enrol", "release"):
        done = ksm_node(command, str(target.pid), lock=tmp_path / "lock")
        assert done.returncode == 2
        assert "cannot be understood" in done.stderr
    assert not mergeable_ranges(target.pid)


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
        done = ksm_node("relieve", "--cgroup", "/", lock=lock.path)
        assert done.returncode == 2
        assert "an agent manages this node" in done.stderr
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


def test_a_whole_container(
    start: Start, cgroup: Cgroup, hierarchy: Hierarchy, tmp_path: Path
) -> None:
    """All of its processes, those below and those forked meanwhile, by either form of its name."""
    lock = tmp_path / "lock"
    # Version 2 has no processes beside cgroups with limits of their own.
    homes = (cgroup.child("one"), cgroup.child("two"))
    targets = [start("sh", "-c", "echo ready; read line") for _ in range(2)]
    for target, home in zip(targets, homes, strict=True):
        home.add(target.pid)
        target.wait_for_state("S")
    done = ksm_node("enrol", "--cgroup", str(cgroup.directory), lock=lock)
    assert done.returncode == 0, done.stderr + done.stdout
    assert all(kernel.merge_any(target.pid) for target in targets)
    name = hierarchy.name(cgroup.directory)
    done = ksm_node("-o", "json", "release", "--cgroup", name, lock=lock)
    assert done.returncode == 0, done.stderr + done.stdout
    said = json.loads(done.stdout)
    assert {one["pid"] for one in said} == {target.pid for target in targets}
    assert not any(kernel.merge_any(target.pid) for target in targets)


def test_a_cgroup_that_is_not_there(ksm: None, tmp_path: Path) -> None:
    """Refused before anything is touched."""
    done = ksm_node("enrol", "--cgroup", "/none/such", lock=tmp_path / "lock")
    assert done.returncode == 2
    assert "no cgroup /none/such" in done.stderr


@pytest.mark.usefixtures("ksmd")
def test_explain_before_and_after(
    holder: Holders, cgroup: Cgroup, hierarchy: Hierarchy, tracer: Tracer, tmp_path: Path
) -> None:
    """Whether it would be enrolled, then who pays for what it shares and which limit is near."""
    homes = [cgroup.child("one"), cgroup.child("two")]
    targets = [holder(8, home, "small") for home in homes]
    for target in targets:
        target.wait_for_state("S")
    words = ("-o", "json", "explain", str(targets[0].pid))
    before = json.loads(ksm_node(*words, lock=tmp_path / "lock").stdout)
    enrolment = before["processes"][0]["enrolment"]
    assert enrolment["wouldEnrol"]
    assert (enrolment["method"], enrolment["thread"]) == ("Prctl", targets[0].pid)
    merge(tracer, *targets, mebibytes=7)
    cgroup.limit(40 << 20)
    done = ksm_node(*words, lock=tmp_path / "lock")
    after = json.loads(done.stdout)
    process, home = after["processes"][0], after["cgroups"][0]
    assert process["enrolment"]["reason"] == "AlreadyMergeable"
    assert process["mergedBytes"] >= 7 << 20
    assert process["paidBytes"]["bytes"] + process["unpaidBytes"]["bytes"] >= 7 << 20
    assert home["cgroup"] == hierarchy.name(homes[0].directory)
    assert home["tightest"] == hierarchy.name(cgroup.directory)
    text = ksm_node("explain", "--cgroup", str(cgroup.directory), lock=tmp_path / "lock").stdout
    assert f"the tightest is cgroup {home['tightest']}" in text
    assert all(str(target.pid) in text for target in targets)


def test_explain_says_why_not(start: Start, tmp_path: Path) -> None:
    """In words, not in the name of a constant alone."""
    target = start(
        code="import ctypes; ctypes.CDLL(None).mlockall(1); print('ready'); input()", ready=True
    )
    done = ksm_node("explain", str(target.pid), lock=tmp_path / "lock")
    assert done.returncode == 0, done.stderr
    assert "it locked memory" in done.stdout


def test_release_leaves_what_a_program_asked_for_itself(start: Start, tmp_path: Path) -> None:
    """Its own madvise is not ours to take back, also when its whole container is released."""
    target = start(
        code="""
import mmap, sys
area = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_MERGEABLE)
print("ready", flush=True)
sys.stdin.readline()
"""
    )
    before = mergeable_ranges(target.pid)
    assert before
    done = ksm_node("release", str(target.pid), lock=tmp_path / "lock")
    assert done.returncode == 0, done.stderr
    assert "by madvise; left as it is" in done.stdout
    assert mergeable_ranges(target.pid) == before


# Six commands one after the other take an emulated machine more than a minute.
@pytest.mark.timeout(240, func_only=True)
@pytest.mark.usefixtures("ksmd")
def test_relieve_a_cgroup_that_pays_for_others(
    holder: Holders, cgroup: Cgroup, hierarchy: Hierarchy, tracer: Tracer, tmp_path: Path
) -> None:
    """Seen by `explain`, cured by `relieve`, seen again; what it took is told to the byte."""
    pods = merged_pods(holder, tracer, cgroup.child("one"), cgroup.child("two"))
    pods.limit(LIMIT)
    name = hierarchy.name(pods.payer.directory)
    lock = tmp_path / "lock"

    def explained() -> str:
        done = ksm_node("explain", "--cgroup", name, lock=lock)
        assert done.returncode == 0, done.stderr
        return next(line for line in done.stdout.splitlines() if "Demand" in line)

    assert f"does not fit, cgroup {name} lacks" in explained()
    with no_kill(hierarchy, pods.payer, pods.sharer):
        done = ksm_node("-o", "json", "relieve", "--cgroup", name, lock=lock)
        assert done.returncode in (0, 1), done.stderr
        report = json.loads(done.stdout)
        (one,) = report["givenBack"]
        assert one["pid"] == pods.sharing.pid
        assert LIMIT // 4 * MIB < one["bytes"] < SIZE * MIB
        assert sum(end - start for start, end in one["ranges"]) >= one["bytes"]
        assert name not in [level["cgroup"] for level in report["exposed"]]
        assert explained().endswith("fits")
        again = ksm_node("relieve", "--cgroup", name, lock=lock)
        assert "given back" not in again.stdout
        pods.paying.tell("refill")
        assert pods.paying.line() == "intact"
