"""What the watching threads have in common."""

import subprocess
import sys

DECODES = """
import sys, threading
import msgspec
from ksm_operator.agent.watcher import decode_metadata, decode_node, decode_pod

sys.setswitchinterval(1e-6)
raw = msgspec.Raw(b'{"metadata": {"name": "n"}, "spec": {"desiredState": "Merging"}}')
gate = threading.Barrier(6)


def decode(first):
    gate.wait()
    first(raw)


threads = [
    threading.Thread(target=decode, args=[first])
    for first in (decode_node, decode_metadata, decode_pod) * 2
]
for one in threads:
    one.start()
for one in threads:
    one.join()
"""
AGENTS = 12
"""Every second or third of them died."""


def test_all_threads_may_decode_their_first_object_at_the_same_moment() -> None:
    """So they do whenever an agent starts, and a crash in a library is nobody's error message."""
    agents = [subprocess.Popen([sys.executable, "-c", DECODES]) for _ in range(AGENTS)]
    assert [one.wait() for one in agents] == [0] * AGENTS
