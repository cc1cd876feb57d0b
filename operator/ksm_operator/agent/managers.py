"""Who manages ksmd on a node before us, and how it is handed over. Pure.

Known by the name of a process (the kernel keeps 15 characters of it) or by the unit in whose cgroup
a process of the host merges. Their names and switches are those of their own documentation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from ksm_operator.agent.foreign import Candidate


@dataclass(frozen=True, slots=True)
class Manager:
    """A program that manages ksmd.

    Attributes:
        name: as people know it.
        commands: names of its processes.
        hand_over: what to do.
        does_nothing_else: where it runs it will change ksmd, whether or not it has yet.
    """

    name: str
    commands: tuple[str, ...]
    hand_over: str
    does_nothing_else: bool = False


MANAGERS: Final = (
    Manager(
        "ksmtuned",
        ("ksmtuned",),
        "systemctl disable --now ksmtuned ksm",
        does_nothing_else=True,
    ),
    Manager(
        "KubeVirt",
        ("virt-handler",),
        "exclude this node from the KubeVirt CR's ksmConfiguration.nodeLabelSelector",
    ),
    Manager(
        "Harvester",
        ("harvester-node-",),
        "set run: stop in the node's Ksmtuned object",
    ),
    Manager("TuneD", ("tuned",), "choose a TuneD profile that leaves /sys/kernel/mm/ksm alone"),
)
COMMANDS: Final = frozenset(command for one in MANAGERS for command in one.commands)
_ALONE: Final = frozenset(
    command for one in MANAGERS if one.does_nothing_else for command in one.commands
)
VIRTUAL_MACHINE: Final = re.compile(r"^(qemu|kvm|CPU \d|cloud-hypervis|firecracker)")
_UNIT: Final = re.compile(r"([^/]+\.(?:service|scope))(?:/|$)")
RUN: Final = "write 0 to /sys/kernel/mm/ksm/run"


def is_of_a_manager(process: Candidate) -> bool:
    """Tell whether a process has the name of a manager, and may have it.

    Any process may call itself what it likes. So one of a pod is no reason to leave the node alone;
    those that run in pods are but named where somebody has ksmd run.
    """
    if process.command not in COMMANDS:
        return False
    return process.placement is None or process.command not in _ALONE


def who_manages(run: int, host: Sequence[Candidate], commands: AbstractSet[str]) -> str:
    """Say who has this node's merging in hand and how to hand it over; empty if nobody has.

    Args:
        run: what /sys/kernel/mm/ksm/run holds.
        host: processes of the host, in no pod, that merge.
        commands: those of `COMMANDS` that run here.
    """
    known = [one for one in MANAGERS if not commands.isdisjoint(one.commands)]
    if run == 1:
        return _running(known)
    alone = next((one for one in known if one.does_nothing_else), None)
    if alone is not None:
        return f"{alone.name} runs here and manages ksmd. To hand it over: {alone.hand_over}."
    return _merging(host) if host else ""


def _running(known: Iterable[Manager]) -> str:
    first = next(iter(known), None)
    if first is None:
        return (
            "ksmd ran before the operator came: somebody else manages it. To hand it over stop "
            f"that manager (ksmtuned, TuneD, KubeVirt), then {RUN}."
        )
    return (
        f"ksmd ran before the operator came, and {first.name} is here. "
        f"To hand it over: {first.hand_over}, then {RUN}."
    )


def _merging(host: Sequence[Candidate]) -> str:
    first = host[0]
    others = f" and {len(host) - 1} more" if len(host) > 1 else ""
    who = f"{first.command} (pid {first.process.pid}){others} merged on the host before us. "
    if VIRTUAL_MACHINE.match(first.command):
        return who + "To hand over: start virtual machines with mem-merge=off (nosharepages)."
    unit = _UNIT.search(first.cgroup)
    if unit is not None:
        return who + f"To hand over: MemoryKSM=no in {unit[1][-40:]}, and restart it."
    return who + "To hand over: end it, or start it without merging."
