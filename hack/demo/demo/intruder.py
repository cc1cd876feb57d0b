"""A program outside of the policy's domain asks for merging by itself: ksmd stands still."""

import subprocess
import time

from demo.names import OTHER, POLICY
from demo.shell import REPOSITORY, DemoError, Shell, say

STAYS_SECONDS = 6
PATIENCE_SECONDS = 30
PROGRAM = (
    f"import ctypes, time; ctypes.CDLL(None).prctl(67, 1, 0, 0, 0); time.sleep({STAYS_SECONDS})"
)
"""PR_SET_MEMORY_MERGE, which any process may call for itself."""
ISOLATED = '{.status.conditions[?(@.type=="Isolated")].message}'


def show(shell: Shell) -> None:
    """Let one in, and print what the policy says of it.

    Raises:
        DemoError: nobody noticed it.
    """
    command = ["kubectl", "exec", "-n", OTHER, "deployment/web", "--", "python3", "-c", PROGRAM]
    say(f"$ kubectl exec -n {OTHER} deployment/web -- python3 -c '... prctl(67, 1, 0, 0, 0) ...' &")
    question = ("kubectl", "get", "ksmpolicy", POLICY, "-o", f"jsonpath={ISOLATED}")
    started = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env=shell.environment, cwd=REPOSITORY
    ) as intruder:
        while OTHER not in (said := shell.read(*question)):
            if time.monotonic() > started + PATIENCE_SECONDS:
                raise DemoError(f"nothing noticed within {PATIENCE_SECONDS} s; it says: {said}")
            time.sleep(0.2)
        say(f"{time.monotonic() - started:.1f} s later the policy's condition Isolated says:\n")
        say(f"  {said}\n")
        intruder.wait()
    say("It has ended; ksmd goes on in a quarter of a minute. What was merged stayed merged.")
