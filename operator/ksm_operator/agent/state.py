"""What the agent must remember across restarts, on the host under /run.

Written before the deed it describes: a container is recorded before its first process is enrolled
and a value of ksmd before it is written, so that an agent killed at any instant leaves a record
of at least everything that it did. A reboot clears it all, and the boot id tells.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.kernel import Baseline, Marks, Process
from ksm_operator.kernel.files import replace_file

if TYPE_CHECKING:
    from pathlib import Path

VERSION: Final = 2
READABLE: Final = (1, VERSION)
"""Version 1 knew no marks: whatever it enrolled was enrolled as a whole, with none of its own."""


class MarksOnRecord(MutableMapping[Process, Marks]):
    """Marks by process. A node's may be 200,000 ranges: kept as bare numbers, 16 bytes each."""

    def __init__(self, marks: Mapping[Process, Marks] | None = None) -> None:
        self._packed: dict[Process, tuple[Any, ...]] = {}
        self.update(marks or {})

    def __getitem__(self, process: Process) -> Marks:
        return Marks.from_list(self._packed[process])

    def __setitem__(self, process: Process, marks: Marks) -> None:
        method, program, ranges, intended = marks.to_list()
        self._packed[process] = (method, program, array("Q", ranges), array("Q", intended))

    def __delitem__(self, process: Process) -> None:
        del self._packed[process]

    def __iter__(self) -> Iterator[Process]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def __contains__(self, process: object) -> bool:
        return process in self._packed

    def method(self, process: Process) -> str | None:
        """How a process was enrolled, if it is here."""
        packed = self._packed.get(process)
        return packed[0] if packed is not None else None

    def to_list(self) -> list[Any]:
        """As JSON types."""
        return [
            [one.pid, one.start_time, method, program, list(ranges), list(intended)]
            for one, (method, program, ranges, intended) in sorted(self._packed.items())
        ]

    @classmethod
    def from_list(cls, data: Any) -> MarksOnRecord:
        """Read what `to_list` gave.

        Raises:
            ValueError, TypeError: not of that form.
        """
        return cls(
            {
                Process(int(pid), int(started)): Marks.from_list(marks)
                for pid, started, *marks in data
            }
        )


class StateError(Exception):
    """The state file cannot be understood or written; nothing may be enrolled without it."""


@dataclass(slots=True)
class Container:
    """A container with enrolled processes.

    Attributes:
        pod_uid: the uid in its cgroup's name.
        path: its cgroup, relative to the memory hierarchy's mount.
        enrolled: processes enrolled by us, their mergeable descendants included as they are seen.
        own: processes that had asked for merging as a whole before us; never released by us.
        marks: of those enrolled for which there is more to remember; one that has ended stays until
            its children have been looked for.
    """

    pod_uid: str
    path: str
    enrolled: set[Process] = field(default_factory=set)
    own: set[Process] = field(default_factory=set)
    marks: MarksOnRecord = field(default_factory=MarksOnRecord)

    def put(self, process: Process, marks: Marks | None) -> None:
        """Have a process on record as enrolled."""
        self.enrolled.add(process)
        if marks is None or marks.is_plain:
            self.marks.pop(process, None)
        else:
            self.marks[process] = marks

    def drop(self, process: Process) -> None:
        """It holds nothing of ours."""
        self.enrolled.discard(process)
        self.marks.pop(process, None)

    def is_by_ranges(self, process: Process) -> bool:
        """Whether it is enrolled by `Madvise`."""
        return self.marks.method(process) == "Madvise"


@dataclass(frozen=True, slots=True)
class SavedCpus:
    """Where ksmd may run.

    Attributes:
        before: the CPUs before we first moved it.
        written: those that we moved it to last.
    """

    before: frozenset[int]
    written: frozenset[int]


@dataclass(slots=True)
class State:
    """Everything remembered.

    Attributes:
        boot_id: of the boot that it belongs to.
        owner: uid of the policy whose processes are enrolled; empty for none.
        baseline: ksmd's values before our first write.
        containers: by cgroup path.
        run_is_ours: whether a `run` of 0 may be our own doing (limit, SIGTERM, Paused), or may be
            the one that we found, since ksmd has yet to be started.
        yielded: files that somebody else changed since; left alone until the policy is edited.
        told: the KSMNode's spec that was obeyed last, as JSON types, to go on without an API
            server.
        generation: its metadata.generation.
        affinity: where ksmd may run; None while we have not moved it.
    """

    boot_id: str
    owner: str = ""
    baseline: Baseline = field(default_factory=Baseline)
    containers: dict[str, Container] = field(default_factory=dict)
    run_is_ours: bool = False
    yielded: set[str] = field(default_factory=set)
    told: dict[str, Any] | None = None
    generation: int = 0
    affinity: SavedCpus | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "version": VERSION,
            "bootID": self.boot_id,
            "owner": self.owner,
            "baseline": self.baseline.to_dict(),
            "containers": [
                {
                    "podUID": container.pod_uid,
                    "path": container.path,
                    "enrolled": [[one.pid, one.start_time] for one in sorted(container.enrolled)],
                    "own": [[one.pid, one.start_time] for one in sorted(container.own)],
                    "marks": container.marks.to_list(),
                }
                for container in self.containers.values()
            ],
            "runIsOurs": self.run_is_ours,
            "yielded": sorted(self.yielded),
            "told": self.told,
            "generation": self.generation,
            "affinity": _cpus_to_list(self.affinity),
        }

    @classmethod
    def from_dict(cls, data: Any) -> State:
        """Read what `to_dict` gave, of this version or the one before.

        Raises:
            StateError: another version, or not of that form.
        """
        try:
            if data["version"] not in READABLE:
                raise StateError(f"version {data['version']} is not {VERSION}")
            containers = [
                Container(
                    entry["podUID"],
                    entry["path"],
                    {Process(int(pid), int(started)) for pid, started in entry["enrolled"]},
                    {Process(int(pid), int(started)) for pid, started in entry["own"]},
                    MarksOnRecord.from_list(entry["marks"] if data["version"] > 1 else ()),
                )
                for entry in data["containers"]
            ]
            return cls(
                boot_id=str(data["bootID"]),
                owner=str(data["owner"]),
                baseline=Baseline.from_dict(data["baseline"]),
                containers={container.path: container for container in containers},
                run_is_ours=bool(data["runIsOurs"]),
                yielded=set(data["yielded"]),
                told=data["told"],
                generation=int(data["generation"]),
                affinity=_cpus_from_list(data.get("affinity")),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StateError(f"not of the expected form: {error!r}") from error

    @property
    def touched(self) -> bool:
        """Whether there is anything on this node that we would have to give back."""
        return bool(self.owner or self.containers or self.baseline.files or self.affinity)


def _cpus_to_list(saved: SavedCpus | None) -> list[list[int]] | None:
    return [sorted(saved.before), sorted(saved.written)] if saved is not None else None


def _cpus_from_list(data: Any) -> SavedCpus | None:
    if data is None:
        return None
    before, written = (frozenset(int(cpu) for cpu in cpus) for cpus in data)
    return SavedCpus(before, written)


def load(path: Path, boot_id: str) -> State:
    """Read the state of this boot; an empty one if there is none or it is of an earlier boot.

    Raises:
        StateError: the file is there and cannot be understood: an agent of another version wrote
            it, or it is damaged. What it would say may still be enrolled.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return State(boot_id)
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror}") from error
    try:
        data = json.loads(text)
        if isinstance(data, dict) and data.get("bootID") not in (None, boot_id):
            return State(boot_id)
        return State.from_dict(data)
    except (ValueError, StateError) as error:
        raise StateError(
            f"{path} cannot be understood ({error}): it says what an earlier agent enrolled. "
            "Run the agent version that wrote it, or reboot the node"
        ) from error


def save(path: Path, state: State) -> None:
    """Replace the file whole.

    Raises:
        StateError: it cannot be written.
    """
    try:
        replace_file(path, json.dumps(state.to_dict(), separators=(",", ":")).encode())
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror}") from error
