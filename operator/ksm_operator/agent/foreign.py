"""Who else on the node has asked for merging: they share one pool with the domain."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.placement import place
from ksm_operator.agent.wire import ForeignMerger
from ksm_operator.kernel import (
    KernelError,
    is_marked,
    mergeable_processes,
    read_cgroup,
    read_stat,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from ksm_operator.agent.host import Host

MOST: Final = 10


def foreign_mergers(host: Host, domain: Collection[str]) -> tuple[list[ForeignMerger], int]:
    """Return at most ten of them, and how many there are. Reads every process once.

    Args:
        host: the machine.
        domain: cgroup paths of the containers that belong together.
    """
    found: list[ForeignMerger] = []
    count = 0
    controller = "memory" if host.hierarchy.version == 1 else ""
    for mergeable in mergeable_processes():
        pid = mergeable.process.pid
        try:
            placement = place(read_cgroup(pid).get(controller, ""))
            stat = read_stat(pid)
            if placement is not None and placement.container_path in domain:
                continue
            # Our own children try what the kernel does.
            if stat.ppid == os.getpid() or not is_marked(mergeable):
                continue
        except KernelError:
            continue
        command = stat.comm.encode(errors="replace").decode()
        count += 1
        if len(found) < MOST:
            found.append(
                ForeignMerger(
                    pid=pid,
                    command=command[:16],
                    pod_uid=placement.pod_uid if placement else None,
                )
            )
    return found, count
