"""What commands print, as values; and values as people read them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIB = 1 << 20
REST_SHARE = 0.02


@dataclass(frozen=True)
class Pod:
    """A pod that runs.

    Attributes:
        name: its name.
        uid: its uid, which its cgroups carry in their names.
        node: where it runs.
    """

    name: str
    uid: str
    node: str


def pods(items: Sequence[Mapping[str, Any]]) -> list[Pod]:
    """The pods of a `kubectl get pods -o json` that have a node and are not being deleted."""
    return [
        Pod(item["metadata"]["name"], item["metadata"]["uid"], item["spec"]["nodeName"])
        for item in items
        if "deletionTimestamp" not in item["metadata"] and item["spec"].get("nodeName")
    ]


def by_node(found: Sequence[Pod]) -> dict[str, list[Pod]]:
    """The pods of each node."""
    nodes: dict[str, list[Pod]] = {}
    for pod in found:
        nodes.setdefault(pod.node, []).append(pod)
    return nodes


def meminfo(text: str) -> dict[str, int]:
    """Bytes by the names of /proc/meminfo."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) >= 2}  # noqa: PLR2004 - a name and a number


@dataclass(frozen=True)
class Sample:
    """ksmd on all nodes at one moment.

    Attributes:
        seconds: when.
        saved: bytes.
        cpu: seconds of CPU that ksmd used since its node's boot.
        scans: full scans since boot; of the node that has the fewest.
    """

    seconds: float
    saved: int
    cpu: float
    scans: int


def sample(seconds: float, texts: Sequence[str], page_size: int) -> Sample:
    """Add up what `grep -H .` printed on each node of ksmd's files."""
    saved, cpu, scans = 0, 0.0, []
    for text in texts:
        values: dict[str, str] = {}
        for line in text.splitlines():
            path, _, value = line.partition(":")
            values[path.rpartition("/")[2]] = value
        saved += int(values["pages_sharing"]) + int(values.get("ksm_zero_pages", 0))
        cpu += int(values["schedstat"].split()[0]) / 1e9
        scans.append(int(values["full_scans"]))
    return Sample(seconds, saved * page_size, cpu, min(scans, default=0))


def has_levelled(samples: Sequence[Sample], truth: int) -> bool:
    """Whether savings have stopped growing.

    Either nearly all is merged, or two full scans in a row have found less than half a percent.
    """
    if len(samples) < 2:  # noqa: PLR2004 - growth needs two
        return False
    now = samples[-1]
    if now.saved - samples[-2].saved > truth * 0.002:
        return False
    if truth and now.saved >= truth * 0.98:
        return True
    earlier = [one for one in samples if one.scans <= now.scans - 3]
    return bool(now.saved and earlier and now.saved - earlier[-1].saved < truth * 0.005)


def shares(samples: Sequence[Sample]) -> list[float]:
    """The CPUs that ksmd used between each two samples, of all nodes together."""
    return [
        (now.cpu - before.cpu) / (now.seconds - before.seconds)
        for before, now in itertools.pairwise(samples)
    ]


def is_at_rest(samples: Sequence[Sample], nodes: int) -> bool:
    """Whether ksmd used less than a fiftieth of a CPU of each node lately."""
    used = shares(samples)
    return bool(used) and used[-1] < REST_SHARE * nodes


def mib(count: float) -> str:
    """Bytes as whole MiB."""
    return f"{count / MIB:,.0f} MiB"


def percent(part: float, whole: float) -> str:
    """A share in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns, the first one left-aligned, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def pod_table(
    found: Sequence[Pod],
    processes: Sequence[Mapping[str, Any]],
    private: Mapping[int, int],
) -> str:
    """What each pod holds and how much of it is merged.

    Args:
        found: the pods.
        processes: as processes.py prints them.
        private: bytes of private memory by pid.
    """
    rows = [["POD", "PROCESSES", "MERGEABLE", "PRIVATE", "OF IT MERGED"]]
    for pod in found:
        own = [one for one in processes if one["uid"] == pod.uid]
        held = sum(private.get(one["pid"], 0) for one in own)
        merged = sum(one["merged"] for one in own)
        mergeable = sum(bool(one["mergeable"]) for one in own)
        rows.append([pod.name, str(len(own)), str(mergeable), mib(held), mib(merged)])
    return table(rows)
