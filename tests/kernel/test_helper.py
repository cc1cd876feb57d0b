"""The process that traces: it lives and dies apart from the agent, and no target notices."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.calls import get_merge
from kernel.conftest import Start, Target, wait_until
from ksm_operator.kernel import (
    AlreadyMergeable,
    Enrolled,
    Helper,
    Intent,
    KernelError,
    KernelFeatures,
    Marks,
    Postponed,
    Process,
    ProcessGone,
    Syscall,
    Visit,
    carry_out_many,
    enrol,
    is_alive,
    merges_everything,
    prepare,
    release,
)
from ksm_operator.kernel import helper as helper_module
from ksm_operator.kernel.helper import PACKAGE_ROOT
from support import kernel

ASK = Syscall("prctl", (3, 0, 0, 0, 0))
"""PR_GET_DUMPABLE: answers 1, changes nothing, and every kernel knows it."""

WAIT = "import sys; print('ready', flush=True); sys.stdin.readline()"
CAP_SYS_RESOURCE = 24
MIB = 1 << 20


@pytest.fixture
def helper(ksm: None) -> Iterator[Helper]:
    """A helper that is ended with the test."""
    made = Helper()
    yield made
    made.close()


def pid_of(helper: Helper) -> int:
    """The helper's process id."""
    assert helper.pid is not None
    return helper.pid


def kill_helper(helper: Helper) -> None:
    """SIGKILL, and it is dead when this returns."""
    pid = pid_of(helper)
    os.kill(pid, signal.SIGKILL)
    # Until every thread of it is, and without taking its end from whoever started it.
    assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT) is not None


def ends_well(target: Target) -> bool:
    """Whether a target that waits for a line goes on as if nothing had been."""
    target.tell("end")
    return target.popen.wait(10) == 0


def test_every_visit_is_told_with_its_stop(start: Start, helper: Helper) -> None:
    """How long targets stood still must be known of every kind of visit, and of those in vain."""
    told: list[Visit | KernelError] = []
    helper.on_answer = told.append
    target = start(code=WAIT)
    helper.call(target.process, [ASK])
    answers = helper.call_many([(target.process, [ASK]), (Process(target.pid, 1), [ASK])])
    assert told[1:] == answers
    assert [type(one) for one in told] == [Visit, Visit, ProcessGone]
    assert all(0 < one.stopped_ns < 10**9 for one in told if isinstance(one, Visit))
    assert ends_well(target)


def test_it_can_be_there_before_the_first_call(start: Start, helper: Helper) -> None:
    """Its start takes longer than a runtime needs to turn into a container's program."""
    helper.start()
    pid = pid_of(helper)
    helper.start()
    assert isinstance(helper.call(start(code=WAIT).process, [ASK]), Visit)
    assert pid_of(helper) == pid, "it is the one that made the call"
    assert helper.deaths == 0


@pytest.mark.usefixtures("prctl")
def test_it_enrols_and_releases(start: Start, helper: Helper) -> None:
    """It makes the same calls as the tracer in this process does."""
    target = start(code=WAIT)
    assert isinstance(enrol(target.process, helper), Enrolled)
    assert helper.call(target.process, [get_merge()]).results == (1,)
    assert release(target.process, helper, lambda: None).done
    assert helper.call(target.process, [get_merge()]).results == (0,)
    assert ends_well(target)


def test_many_requests_in_one_go(start: Start, helper: Helper) -> None:
    """Each gets its own answer, in order; one that fails costs the others nothing."""
    targets = [start("sh", "-c", "echo ready; read line") for _ in range(40)]
    for target in targets:
        target.wait_for_state("S")
    gone = Process(targets[0].pid, 1)
    processes = [target.process for target in targets]
    processes.insert(20, gone)
    answers = helper.call_many([(process, [ASK]) for process in processes])
    assert len(answers) == len(processes)
    for process, answer in zip(processes, answers, strict=True):
        if process is gone:
            assert isinstance(answer, ProcessGone)
            assert answer.pid == gone.pid
        else:
            assert isinstance(answer, Visit), answer
            assert (answer.results, answer.tid) == ((1,), process.pid)


def test_many_are_enrolled_in_one_go(start: Start, helper: Helper, prctl: KernelFeatures) -> None:
    """Each is judged and verified as if it were alone."""
    targets = [start(code=WAIT) for _ in range(5)]
    intents = [prepare(target.process, prctl) for target in targets]
    assert all(isinstance(one, Intent) for one in intents)
    prepared = [one for one in intents if isinstance(one, Intent)]
    # What may happen between the look and the deed: it ends, it execs, it is enrolled otherwise.
    gone = Intent(Process(targets[0].pid, 1), prepared[0].marks)
    another = Intent(targets[1].process, Marks("Prctl", prepared[1].marks.program + 4096))
    enrol(targets[2].process, helper)
    first, second, third, *others = carry_out_many([gone, another, *prepared[2:]], helper)
    assert isinstance(first, ProcessGone)
    assert isinstance(second, Postponed)
    assert second.reason == "Exec"
    assert third == AlreadyMergeable(targets[2].process, "Prctl")
    assert [type(one) for one in others] == [Enrolled] * 2
    assert [merges_everything(target.process) for target in targets] == [False] * 2 + [True] * 3
    assert all(ends_well(target) for target in targets)


def test_errors_cross_unchanged(start: Start, helper: Helper) -> None:
    """The reason is what the caller counts and acts on."""
    target = start(code=WAIT)
    os.kill(target.pid, signal.SIGSTOP)
    target.wait_for_state("T")
    with pytest.raises(Postponed) as caught:
        helper.call(target.process, [ASK])
    assert (caught.value.reason, caught.value.pid) == ("Stopped", target.pid)
    os.kill(target.pid, signal.SIGCONT)
    target.kill()
    with pytest.raises(ProcessGone):
        helper.call(target.process, [ASK])


def test_killed_between_requests(start: Start, helper: Helper) -> None:
    """The next request finds a new helper, and the death is counted."""
    target = start(code=WAIT)
    helper.call(target.process, [ASK])
    before = pid_of(helper)
    kill_helper(helper)
    assert helper.call(target.process, [ASK]).results == (1,)
    assert pid_of(helper) != before
    assert helper.deaths == 1
    assert not helper.failing
    assert ends_well(target)


def test_killed_during_a_request(start: Start, helper: Helper) -> None:
    """The request is postponed under a name of its own, the target goes on, the next one works."""
    target = start(code=WAIT)
    target.wait_for_state("S")
    helper.call(target.process, [ASK])
    pid = pid_of(helper)
    answers: list[Visit | KernelError] = []
    with subprocess.Popen(["sh", "-c", f"sleep 0.05; kill -9 {pid}"]) as killer:
        while not helper.deaths:
            answers += helper.call_many([(target.process, [ASK])] * 100)
        assert killer.wait() == 0
    lost = [answer for answer in answers if not isinstance(answer, Visit)]
    assert helper.deaths == 1
    assert all(isinstance(answer, Postponed) for answer in lost)
    assert {answer.reason for answer in lost if isinstance(answer, Postponed)} <= {
        "HelperRestarted"
    }
    assert helper.call(target.process, [ASK]).results == (1,)
    target.wait_for_state("S")
    assert ends_well(target)


def test_one_that_does_not_answer_is_ended(
    start: Start, helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stuck helper must not stop the agent for ever."""
    target = start(code=WAIT)
    target.wait_for_state("S")
    helper.call(target.process, [ASK])
    stuck = pid_of(helper)
    os.kill(stuck, signal.SIGSTOP)
    with monkeypatch.context() as shorter:
        shorter.setattr(helper_module, "ANSWER_SECONDS", 0.1)
        shorter.setattr(helper_module, "TRIES", 0)
        with pytest.raises(Postponed) as caught:
            helper.call(target.process, [ASK])
    assert caught.value.reason == "HelperRestarted"
    assert not Path(f"/proc/{stuck}").exists()
    assert helper.call(target.process, [ASK]).results == (1,)
    assert ends_well(target)


def test_one_that_dies_again_and_again_is_reported(start: Start, helper: Helper) -> None:
    """Somebody should look, and meanwhile it is not started thousands of times."""
    target = start(code=WAIT)
    for _ in range(3):
        assert helper.call(target.process, [ASK]).results == (1,)
        kill_helper(helper)
    with pytest.raises(Postponed) as caught:
        helper.call(target.process, [ASK])
    assert caught.value.reason == "HelperFailing"
    assert helper.failing
    assert helper.deaths == 3
    assert ends_well(target)


AGENT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from ksm_operator.kernel import Helper, find_process
from ksm_operator.kernel import Syscall
helper = Helper()
helper.call(find_process(int(sys.argv[2])), [Syscall("prctl", (3, 0, 0, 0, 0))])
print("ready", flush=True)
print(helper.pid, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_agent(number: int, start: Start) -> None:
    """Nobody else ends it, so it must not outlive whoever it works for."""
    target = start(code=WAIT)
    agent = start(str(PACKAGE_ROOT), str(target.pid), code=AGENT)
    helper_pid = int(agent.line())
    process = Process(helper_pid, kernel.start_time(helper_pid) or 0)
    os.kill(agent.pid, number)
    agent.popen.wait(10)
    wait_until(lambda: not is_alive(process), "the helper has ended")
    assert ends_well(target)


DIES_WHILE_IT_WAITS = AGENT.replace(
    "sys.stdin.readline()",
    "helper.call(find_process(int(sys.argv[2])), [Syscall('poll', (0, 0, 1000), 10.0)])",
)
"""Its last request takes a second."""


def test_a_visit_under_way_is_finished_first(start: Start) -> None:
    """An agent that is killed must not leave a thread in the middle of somebody else's call."""
    target = start(code=WAIT)
    target.wait_for_state("S")
    agent = start(str(PACKAGE_ROOT), str(target.pid), code=DIES_WHILE_IT_WAITS)
    helper_pid = int(agent.line())
    process = Process(helper_pid, kernel.start_time(helper_pid) or 0)
    wait_until(lambda: tracer_of(target) != 0, "the visit")
    os.kill(agent.pid, signal.SIGKILL)
    agent.popen.wait(10)
    wait_until(lambda: not is_alive(process), "the helper has ended")
    assert tracer_of(target) == 0
    assert ends_well(target)


def tracer_of(target: Target) -> int:
    """The thread that traces it; 0 for none."""
    words = Path(f"/proc/{target.pid}/status").read_text().split()
    return int(words[words.index("TracerPid:") + 1])


def test_signals_for_the_agent_do_not_end_it(start: Start, helper: Helper) -> None:
    """It ends at a moment of its choice; a terminal's Ctrl-C reaches its group only."""
    target = start(code=WAIT)
    helper.call(target.process, [ASK])
    pid = pid_of(helper)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    assert helper.call(target.process, [ASK]).results == (1,)
    assert pid_of(helper) == pid
    assert os.getsid(pid) == os.getpgid(pid) == pid


def test_the_oom_killer_passes_over_it_where_that_may_be_had(start: Start, helper: Helper) -> None:
    """It says what the kernel granted, which takes CAP_SYS_RESOURCE."""
    target = start(code=WAIT)
    helper.call(target.process, [ASK])
    shown = int(Path(f"/proc/{pid_of(helper)}/oom_score_adj").read_text())
    assert helper.oom_score_adj == shown
    status = Path("/proc/self/status").read_text().split()
    capabilities = int(status[status.index("CapEff:") + 1], 16)
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    assert shown == (-1000 if capabilities >> CAP_SYS_RESOURCE & 1 else ours)


def test_it_is_small(start: Start, helper: Helper) -> None:
    """Every node pays for it: what it adds to the agent is bounded."""
    target = start(code=WAIT)
    helper.call(target.process, [ASK])
    lines = Path(f"/proc/{pid_of(helper)}/smaps_rollup").read_text().splitlines()
    pss = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    print(f"helper process: {pss / MIB:.1f} MiB (PSS), CPython {sys.version.split()[0]}")
    assert pss <= 12 * MIB
