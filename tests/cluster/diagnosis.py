"""What a person would look at first when a test fails."""

from collections.abc import Iterator

from cluster.command import Kubectl
from cluster.operator_release import AGENT_SELECTOR, CONTROLLER_SELECTOR, NAMESPACE
from support import kernel

LOG_LINES = 60


def sections(kubectl: Kubectl) -> Iterator[tuple[str, str]]:
    """Title and text of each thing worth seeing."""
    yield (
        "/sys/kernel/mm/ksm",
        "".join(f"{name}: {value.decode()}" for name, value in kernel.settings().items()),
    )
    inside = ("-n", NAMESPACE)
    for arguments in (
        ("get", "ksmnodes", "-o", "yaml"),
        ("get", "ksmpolicies", "-o", "yaml"),
        ("get", "pods", "-A", "-o", "wide", "--show-labels"),
        ("get", "events", "-n", "default", "--sort-by=.lastTimestamp"),
        ("logs", *inside, "-l", CONTROLLER_SELECTOR, f"--tail={LOG_LINES}"),
        ("logs", *inside, "-l", AGENT_SELECTOR, f"--tail={LOG_LINES}"),
        ("logs", *inside, "-l", AGENT_SELECTOR, f"--tail={LOG_LINES}", "--previous"),
    ):
        try:
            done = kubectl(*arguments, check=False, timeout=20)
            text = done.stdout + done.stderr
        except Exception as error:  # noqa: BLE001 - the test's own failure must still be shown
            text = str(error)
        yield f"kubectl {' '.join(arguments)}", text
