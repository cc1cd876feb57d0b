"""`ksm-node explain`: what would become of a process, what it shares, who pays, what has room."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.kernel import (
    AlreadyMergeable,
    KernelError,
    Postponed,
    Process,
    ProcessGone,
    Refused,
    Rooms,
    SkipReason,
    cgroup_inodes,
    find_process,
    mergeable_processes,
    prepare,
    probe,
    read_merged_bytes,
    read_stat,
    share_of,
    tightest,
)
from ksm_operator.kernel.guard_plan import demands
from ksm_operator.kernel.headroom import NODE, with_margin, within
from ksm_operator.kernel.huge_pages import Look
from ksm_operator.kernel.machine import this_machine
from ksm_operator.kernel.scene import look_steps
from ksm_operator.kernel.steps import run
from ksm_operator.kernel.threads import running_threads, waiting_threads
from ksm_operator.kernel.unmerge import MARGIN_BYTES
from ksm_operator.node.change import RESERVE_SHARE
from ksm_operator.node.huge_pages import to_dict, worth_splitting
from ksm_operator.node.selection import (
    add_arguments,
    cgroup_directory,
    open_hierarchy,
    processes_in,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from ksm_operator.kernel import Estimate, KernelFeatures, Share, Survey

MIB: Final = 1 << 20

WORDS: Final = {
    SkipReason.KERNEL_THREAD: "it is a kernel thread and has no memory of its own",
    SkipReason.THIRTY_TWO_BIT: "it is a 32-bit program, whose system calls are others",
    SkipReason.PAUSE: "it is a pod's pause process, which has nothing to merge",
    SkipReason.LOCKED_MEMORY: "it locked memory so as never to wait for a page, and a write to a "
    "merged page waits",
    SkipReason.REAL_TIME: "a thread of it runs under a real-time policy, and a write to a merged "
    "page waits",
    SkipReason.USERFAULTFD: "it uses userfaultfd, which merging would make lose events",
    SkipReason.VFIO: "a device reads and writes its memory by physical address",
    SkipReason.CONFIDENTIAL_GUEST: "it runs a guest whose memory is encrypted, so that nothing in "
    "it looks equal",
    SkipReason.VIRTUAL_MACHINE: "its memory is a virtual machine's",
    SkipReason.SANDBOXED: "it is gVisor's kernel, whose programs' memory ksmd passes over",
    SkipReason.EXCLUSIVE_CPUS: "it has CPUs for itself, so as never to wait, and a write to a "
    "merged page waits",
    SkipReason.NON_DUMPABLE: "it forbids others to look at it, and CAP_SYS_PTRACE over its user "
    "namespace is lacking",
    SkipReason.HUGE_PAGES: "it lives in huge pages, which merging would split for too little",
    SkipReason.ALREADY_MERGEABLE: "merging is on already; it is left as it is",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `ksm-node`."""
    explain = commands.add_parser(
        "explain",
        help="would it be enrolled, and how; what it has merged, who pays; changes nothing",
        description="Say of each process whether and how it would be enrolled or why not, how much "
        "of it is merged, which cgroup pays for that, and how much room there is to release it. "
        "Changes nothing; the figures are of about this moment.",
    )
    add_arguments(explain)
    explain.add_argument(
        "--exact",
        action="store_true",
        help="look at every merged page of the node; by default a sample where there are many",
    )
    explain.add_argument(
        "--huge-pages",
        action="store_true",
        help="say of processes that live in huge pages what merging would give, for which it would "
        "split them: reads what they and all who merge hold, one to two seconds of CPU per GiB",
    )


def run_explain(options: argparse.Namespace) -> str:
    """The command's output.

    Raises:
        KernelError: no such process or cgroup, or it cannot be read.
    """
    hierarchy = open_hierarchy()
    directories = [cgroup_directory(hierarchy, one) for one in options.cgroup]
    named = [find_process(pid) for pid in options.pids]
    processes = list(dict.fromkeys([*named, *processes_in(directories)]))
    if not processes:
        raise KernelError("no process to explain: name PIDs, or a --cgroup that has some")
    features = probe()
    # Everybody who may share with them: a phantom charge is what only others map.
    everybody = [one.process for one in mergeable_processes()]
    rooms = Rooms(hierarchy, RESERVE_SHARE)
    scene = run(look_steps(everybody, rooms, every=1 if options.exact else None))
    survey = scene.survey
    wanted = demands(scene.members, scene.pages)
    worth = worth_splitting(processes, Look()) if options.huge_pages else {}
    found = []
    for process in processes:
        try:
            explained = explain_process(process, features, survey, rooms)
        except ProcessGone:
            continue
        if process in worth:
            explained["hugePages"] = to_dict(worth[process])
        found.append(explained)
    report = {
        "processes": found,
        "cgroups": [
            explain_cgroup(one, survey, rooms, wanted) for one in _homes(found, directories, rooms)
        ],
        "survey": {
            "every": survey.every,
            "processes": len(everybody),
            "scannedBytes": survey.cost.scanned_bytes,
            "pagesLookedAt": survey.cost.frames,
            "seconds": round(survey.cost.seconds, 3),
            "doubtfulBytes": survey.doubtful_bytes,
        },
    }
    return json.dumps(report, indent=2) if options.output == "json" else render(report)


def _homes(found: list[dict[str, Any]], directories: list[Path], rooms: Rooms) -> list[Path]:
    """The cgroups that were named, and those in which the processes live."""
    homes = [rooms.hierarchy.path(one["cgroup"]) for one in found]
    return sorted({*directories, *homes})


def explain_process(
    process: Process, features: KernelFeatures, survey: Survey, rooms: Rooms
) -> dict[str, Any]:
    """Everything about one process, as JSON types.

    Raises:
        ProcessGone: it exited.
    """
    directory = rooms.hierarchy.directory(process.pid)
    share = share_of(survey, {process}, cgroup_inodes(directory))
    return {
        "pid": process.pid,
        "name": read_stat(process.pid).comm,
        "cgroup": rooms.hierarchy.name(directory),
        "enrolment": enrolment(process, features),
        "mergedBytes": read_merged_bytes(process),
        "paidBytes": _estimate(share.paid),
        "unpaidBytes": _estimate(share.unpaid),
    }


def enrolment(process: Process, features: KernelFeatures) -> dict[str, Any]:
    """Whether it would be enrolled now, and how."""
    answer: dict[str, Any] = {"wouldEnrol": False, "method": None, "thread": None}
    if features.unsupported is not None:
        return {**answer, "reason": "Unsupported", "text": features.unsupported}
    try:
        prepared = prepare(process, features)
        if isinstance(prepared, AlreadyMergeable):
            text = f"merging is on already, by {prepared.by.lower()}; it is left as it is"
            return {**answer, "reason": str(SkipReason.ALREADY_MERGEABLE), "text": text}
        names = this_machine().names
        best = (waiting_threads(process, names) or running_threads(process, names))[0]
    except Refused as error:
        text = WORDS.get(SkipReason(error.reason), f"it is excluded ({error.reason})")
        return {**answer, "reason": str(error.reason), "text": text}
    except Postponed as error:
        text = f"not at this moment, so it is tried again later ({error})"
        return {**answer, "reason": error.reason, "text": text}
    method = prepared.marks.method
    return {
        "wouldEnrol": True,
        "method": method,
        "thread": best.tid,
        "reason": None,
        "text": f"it would be enrolled, by {method.lower()} in thread {best.tid} "
        f"({best.blocked_in})",
    }


def explain_cgroup(
    directory: Path, survey: Survey, rooms: Rooms, wanted: Mapping[str, int]
) -> dict[str, Any]:
    """Who pays for what a cgroup and those below it have merged, their room, and if it suffices.

    Args:
        directory: the cgroup's.
        survey: of every mergeable process of the node.
        rooms: of this node.
        wanted: what each level may come to need, see `guard_plan.demands`.
    """
    share: Share = share_of(survey, processes_in([directory]), cgroup_inodes(directory))
    levels = rooms.levels(directory)
    least = tightest(levels)
    return {
        "cgroup": rooms.hierarchy.name(directory),
        "mergedBytes": _estimate(share.merged),
        "paidBytes": _estimate(share.paid),
        "unpaidBytes": _estimate(share.unpaid),
        "phantomBytes": _estimate(share.phantom),
        "headroom": [
            {
                "level": level.name,
                "bytes": level.room,
                "demandBytes": wanted.get(level.name, 0),
                "fits": within(wanted.get(level.name, 0), level.room, MARGIN_BYTES),
            }
            for level in levels
        ],
        "tightest": None if least is None else least.name,
        "headroomBytes": None if least is None else least.room,
    }


def _estimate(amount: Estimate) -> dict[str, int]:
    return {"bytes": amount.size, "error": amount.error}


def render(report: dict[str, Any]) -> str:
    """The same for a person."""
    lines: list[str] = []
    for one in report["processes"]:
        lines += [
            f"{one['pid']} {one['name']} in {one['cgroup']}",
            f"  Enrolment  {one['enrolment']['text']}",
            f"  Merged     {one['mergedBytes'] / MIB:.1f} MiB; {_payers(one)}",
        ]
        if "hugePages" in one:
            lines.append(f"  Huge pages {_huge_pages(one['hugePages'])}")
    for one in report["cgroups"]:
        lines += [
            f"cgroup {one['cgroup']}",
            f"  Merged     {_mib(one['mergedBytes'])}; {_payers(one)}",
            f"  Phantom    {_mib(one['phantomBytes'])} charged to it that only others map",
            f"  Headroom   {_room(one)}",
            f"  Demand     {_demand(one)}",
        ]
    survey = report["survey"]
    sample = "every merged page" if survey["every"] == 1 else f"1 merged page in {survey['every']}"
    lines.append(
        f"Looked at {sample} of {survey['processes']} mergeable processes in "
        f"{survey['seconds']:.1f} s; of about this moment."
    )
    if survey["doubtfulBytes"]:
        lines.append(
            "This kernel does not mark merged pages so that one could be sure: "
            f"{survey['doubtfulBytes'] / MIB:.1f} MiB may be missing here, or be here wrongly."
        )
    return "\n".join(lines)


def _demand(one: dict[str, Any]) -> str:
    """Whether all that was merged has room, should everybody write to it."""
    own = one["headroom"][0]["demandBytes"]
    text = f"{own / MIB:.1f} MiB if all that it had merged became its own again: "
    short = [level for level in one["headroom"] if not level["fits"]]
    if not short:
        return text + "fits"
    first = short[0]
    who = "the node" if first["level"] == NODE else f"cgroup {first['level']}"
    lacking = with_margin(first["demandBytes"], MARGIN_BYTES) - first["bytes"]
    return (
        f"{text}does not fit, {who} lacks {lacking / MIB:.1f} MiB; "
        f"ksm-node relieve --cgroup {one['cgroup']} breaks sharing for it"
    )


def _payers(one: dict[str, Any]) -> str:
    paid, unpaid = _mib(one["paidBytes"]), _mib(one["unpaidBytes"])
    return f"of the pages shared, its cgroup pays for {paid}, others for {unpaid}"


def _huge_pages(one: dict[str, Any]) -> str:
    if "error" in one:
        return str(one["error"])
    verdict = "worth" if one["pays"] else "not worth"
    return (
        f"{one['bytes'] / MIB:.1f} MiB; merging would split them and give "
        f"{_mib(one['savedBytes'])} back: {verdict} it for ksm-node enrol"
    )


def _mib(amount: dict[str, int]) -> str:
    error = f" (± {amount['error'] / MIB:.1f})" if amount["error"] else ""
    return f"{amount['bytes'] / MIB:.1f} MiB{error}"


def _room(one: dict[str, Any]) -> str:
    if one["tightest"] is None:
        return "no limit"
    who = "the node" if one["tightest"] == NODE else f"cgroup {one['tightest']}"
    return f"{one['headroomBytes'] / MIB:.1f} MiB; the tightest is {who}"
