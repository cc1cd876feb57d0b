"""What a policy says of huge pages, on its way to a process that lives in them."""

import sys
from typing import Final

from cluster.agent_program import AgentProgram
from cluster.command import wait_until
from cluster.own_node import OwnNode
from kernel.huge_programs import PROGRAM, SIZE
from kernel.population.kinds import STOP, Kind
from support import kernel

SECONDS: Final = 60
UNTIL_ASKED: Final = """
import pathlib, time
print("ready", flush=True)
while not pathlib.Path(sys.argv[3]).exists():
    time.sleep(0.05)
"""
NO_TWO_PAGES_ARE_THE_SAME: Final = SIZE << 8
UNIQUE: Final = Kind(
    "unique",
    (
        (
            *(sys.executable, "-c", PROGRAM + UNTIL_ASKED),
            *(str(SIZE), str(NO_TWO_PAGES_ARE_THE_SAME), STOP),
        ),
    ),
    lambda _, lines, status: None if (status, lines) == (0, ["ready"]) else f"{status}: {lines}",
)


def test_an_edit_reaches_who_lives_in_huge_pages(
    agent_program: AgentProgram, own_node: OwnNode
) -> None:
    """One for whom no look would speak merges only because a person says so, and for as long."""
    agent, node = agent_program, own_node
    amber, _ = node.namespaces
    settings = kernel.settings()
    pod = node.run(amber, [UNIQUE])
    (program,) = pod.members
    wait_until(lambda: "ready" in program.output.read_text(), SECONDS, "it has its memory")
    (pid,) = pod.pids()
    node.grant("amber", amber, huge_pages="Split")
    agent.start()
    wait_until(lambda: kernel.merge_any(pid), SECONDS, "it is enrolled")
    node.grant("amber", amber, huge_pages="Preserve")
    wait_until(lambda: not kernel.merge_any(pid), SECONDS, "it is let go")
    node.give_back(settings)
