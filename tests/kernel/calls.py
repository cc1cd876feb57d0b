"""Calls for a target to make."""

from ksm_operator.kernel import Syscall

PR_GET_MEMORY_MERGE = 68


def get_merge() -> Syscall:
    """A call that changes nothing: whether merging is on for the whole process (Linux 6.4)."""
    return Syscall("prctl", (PR_GET_MEMORY_MERGE, 0, 0, 0, 0))
