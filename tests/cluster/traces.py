"""What a local cluster and the operator leave on the machine, to compare before and after."""

import json
import os
import subprocess
from pathlib import Path

_NUMBER = os.environ.get("KSM_LOCAL_CLUSTER", "0")
CLUSTER = f"ksm-operator-local{'' if _NUMBER == '0' else _NUMBER}"
"""The local cluster's name: of its folders, and of its subtree in every cgroup hierarchy."""
LINKS = "ksm-local-" if _NUMBER == "0" else f"ksm-local{_NUMBER}-"
ADDRESSES = f"10.99.{_NUMBER}."


def traces() -> dict[str, list[str]]:
    """Mounts, cgroups, links, addresses and programs of the local cluster and all that is in it."""
    return {
        "mounts": sorted(set(_mounts())),
        "cgroups": sorted(str(folder) for folder in _cgroups()),
        "links": sorted(_links()),
        "addresses": sorted(_addresses()),
        "programs": sorted(_programs()),
    }


def _mounts() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for line in lines if f"/{CLUSTER}/" in (point := line.split()[4])]


def _cgroups() -> set[Path]:
    top = Path("/sys/fs/cgroup")
    roots = [top / CLUSTER, *(hierarchy / CLUSTER for hierarchy in top.iterdir())]
    return {folder for root in roots if root.is_dir() for folder in (root, *root.glob("**/"))}


def _links() -> list[str]:
    shown = subprocess.run(
        ["ip", "-json", "link", "show"], capture_output=True, text=True, check=True
    )
    names = [str(link["ifname"]) for link in json.loads(shown.stdout)]
    return [name for name in names if name.startswith(LINKS)]


def _addresses() -> list[str]:
    """What this machine takes for its own; for virtual nodes it is more than what links show."""
    shown = subprocess.run(
        ["ip", "-json", "route", "show", "table", "local"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = [str(route["dst"]) for route in json.loads(shown.stdout)]
    return [address for address in found if address.startswith(ADDRESSES)]


def _programs() -> list[str]:
    """Names of the programs in the cluster's cgroups: pids differ after a restart."""
    pids: set[str] = set()
    for folder in _cgroups():
        try:
            pids.update((folder / "cgroup.procs").read_text().split())
        except OSError:
            continue
    return [name for pid in pids if (name := _program(pid))]


def _program(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
