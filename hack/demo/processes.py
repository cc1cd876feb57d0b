"""Which processes pods have on this node, and what the kernel says of merging in them.

Reads nothing but /proc, and runs inside the agent's pod, which sees the node's processes:

    kubectl exec -i -n ksm-operator AGENT -- python3 - UID... < hack/demo/processes.py

With `--until N` it waits until N processes are mergeable (at most 90 s), and says how old each one
was when it was first seen so.
"""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

RUNTIME = ("pause", "runc", "crun", "conmon")
WAIT_SECONDS = 90


def read(pid: str, name: str) -> str:
    """A file of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def describe(pid: str, uid: str) -> dict[str, Any] | None:
    """One process as JSON types; None if it is gone or no program of the pod's own."""
    comm, stat, merging = read(pid, "comm").strip(), read(pid, "stat"), read(pid, "ksm_stat")
    if not stat or not merging or comm.startswith(RUNTIME):
        return None
    numbers = dict(re.findall(r"(\w+):? (\S+)", merging))
    ticks = int(stat.rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    # Kernels before 6.14 do not say; there ksmd keeps records of those that asked.
    said_by = "ksm_merge_any" if "ksm_merge_any" in numbers else "ksm_rmap_items"
    return {
        "uid": uid,
        "pid": int(pid),
        "name": comm,
        "age": age,
        "mergeable": numbers.get(said_by, "0") not in ("no", "0"),
        "saidBy": said_by,
        "merged": int(numbers.get("ksm_merging_pages", 0)) * os.sysconf("SC_PAGE_SIZE"),
    }


def processes(uids: list[str]) -> list[dict[str, Any]]:
    """All of them; systemd's cgroup driver writes a uid's dashes as underscores."""
    wanted = {spelling: uid for uid in uids for spelling in (uid, uid.replace("-", "_"))}
    pattern = re.compile("|".join(wanted) or "$^")
    found = []
    for pid in filter(str.isdigit, (entry.name for entry in Path("/proc").iterdir())):
        match = pattern.search(read(pid, "cgroup"))
        if match:
            found.append(describe(pid, wanted[match.group()]))
    return [one for one in found if one]


def watch(uids: list[str], count: int) -> list[dict[str, Any]]:
    """Wait for so many mergeable processes; each as it was when it was first seen mergeable."""
    deadline = time.monotonic() + WAIT_SECONDS
    seen: dict[int, dict[str, Any]] = {}
    while len(seen) < count and time.monotonic() < deadline:
        for one in processes(uids):
            if one["mergeable"]:
                seen.setdefault(one["pid"], one)
        time.sleep(0.02)
    return list(seen.values())


arguments = sys.argv[1:]
if arguments[:1] == ["--until"]:
    print(json.dumps(watch(arguments[2:], int(arguments[1]))))
else:
    print(json.dumps(processes(arguments)))
