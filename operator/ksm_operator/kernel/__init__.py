"""What an agent does to a Linux node: sysfs, procfs, cgroupfs and remote system calls.

Knows nothing of Kubernetes and uses the standard library only. Root on the node is enough::

    from ksm_operator.kernel import KsmSysfs, Tracer, enrol, find_process, release

    tracer = Tracer()
    process = find_process(1234)
    enrol(process, tracer)                       # Enrolled or AlreadyMergeable
    release(process, tracer, headroom=lambda: 1 << 30)

Every function that reads a tree takes its root as a parameter (``proc=Path("/proc")`` and so on).
Whatever goes wrong is a :class:`KernelError`; the tree is drawn in :mod:`.errors`.

=====================  =============================================================================
module                 what it answers
=====================  =============================================================================
:mod:`.errors`         `KernelError` and its kinds
:mod:`.procfs`         `Process(pid, start_time)`, `find_process(pid)`, `is_alive(process)`,
                       `read_stat/read_status/read_cgroup(pid)`, `read_meminfo()`,
                       `read_vmstat()`, `page_size()`, `boot_id()`
:mod:`.ksm_stat`       `read_ksm_stat(process) -> KsmStat`, `find_ksmd() -> pid | None`,
                       `ksmd_cpu_ns(pid) -> int`
:mod:`.cpus`           `read_affinity(pid)`, `write_affinity(pid, cpus)`, `is_online(cpu)`
:mod:`.smaps`          `read_vmas(process) -> list[Vma]`: ranges, flags, merged bytes;
                       `read_merged_bytes(process) -> int`: what a release would cost
:mod:`.mergeable`      `mergeable_processes() -> Iterator[Mergeable]`: who asked for merging;
                       `merges_everything(process) -> bool`
:mod:`.ksm_enter`      `KsmEnterEvents()`: who asks for it, at that moment
:mod:`.memory_lock`    `must_not_hang()`: of this thread's reads of what a process can lock
:mod:`.patience`       `Patience(read, seconds)`: reads that may hang
:mod:`.writers`        `OtherWriters(paths).wrote()`: whether others write to a file
:mod:`.sysfs`          `KsmSysfs(root).read() -> KsmValues`, `.write(file, value)`,
                       `find_writable_root() -> Path`; :mod:`.patient_sysfs`: `PatientSysfs`
:mod:`.baseline`       `Baseline`: values before our first write; `record`, `restore_plan`,
                       `to_dict`, `from_dict`
:mod:`.cgroupfs`       `find_memory_hierarchy() -> Hierarchy(version, mount)`,
                       `Hierarchy.directory(pid)`, `walk(directory)`, `pids(directory)`,
                       `join_host_cgroup_namespace()`
:mod:`.headroom`       `memory_headroom(hierarchy, directory) -> bytes | None` (None: no limit),
                       `node_headroom(meminfo, reserve_bytes) -> bytes`, `Rooms(hierarchy, share)`:
                       room of every level by name, `tightest(levels)`, `read_events()`
:mod:`.watch`          `CgroupWatch(mount)`: `fileno()`, `read() -> list[CgroupEvent]`
:mod:`.exec_watch`     `ExecWatch()`: `fileno()`, `read() -> set[pid] | None` (None: some were lost)
:mod:`.tracer`         `Tracer().call(process, [Syscall, ...]) -> Visit`; `RemoteCalls` protocol
:mod:`.helper`         `Helper().call(process, [Syscall, ...]) -> Visit`: the same in a process of
                       its own; `call_many`
:mod:`.exclusions`     `SkipReason`, `why_not(process) -> SkipReason | None`; `asked=True` of who
                       asks for merging
:mod:`.huge_pages`     `Look().worth_of(candidates, others)`: what splitting huge pages gives
:mod:`.samples`        `take_sample(process, vmas, every) -> Sample`: a part of what a process
                       holds, chosen by content; by what :mod:`.contents` reads
:mod:`.saving`         `saving(samples, every, size) -> Estimate`: what merging all gives; pure
:mod:`.enrol`          `enrol(process, tracer) -> Enrolled | AlreadyMergeable`; or in two steps,
                       for a record between them: `prepare(process, features) -> Intent`,
                       `carry_out(intent, tracer)`, `carry_out_many(intents, helper)`
:mod:`.marks`          `Marks`: that record; `settle(process, marks)` where the deed was broken off
:mod:`.ranges`         `Range`, `joined`, `common`, `without`
:mod:`.madvise`        merging by ranges: `choose`, `mark`, `restore_own`
:mod:`.merged_pages`   `MergedPages(process).merged(range)`: which pages, not in its way
:mod:`.chunks`         a release cut into steps: pure
:mod:`.unmerge`        `Unmerging(process, tracer, headroom).give_back()`: those steps
:mod:`.release`        `release(process, tracer, headroom, marks=...) -> ReleaseProgress`
:mod:`.shared_memory`  `share_memory(one, other)`: made by vfork or clone(CLONE_VM)
:mod:`.payers`         `survey_payers(processes) -> Survey`: who maps merged pages, who pays
:mod:`.shares`         `share_of(survey, processes, inodes) -> Share`: with the phantom charge; pure
:mod:`.by_cgroup`      `shares_of_all(survey, homes, payers)`, `without_merging(share, ...)`: pure
:mod:`.usage`          `read_working_set(hierarchy, directory)`: as the kubelet tells it
:mod:`.release_plan`   `plan_release(members, pages, rooms) -> ReleasePlan`: pure
:mod:`.release_all`    `release_all(members, tracer, rooms, told)`: sharers before payers
:mod:`.scene`          `look_steps(processes, rooms) -> Scene`: all that a planner is told
:mod:`.guard_plan`     `plan_guard(members, pages, rooms) -> GuardPlan`: pure; `demands()`
:mod:`.guard`          `relieve(members, breakable, tracer, rooms) -> Relief`: room for payers
:mod:`.probe`          `probe() -> KernelFeatures`; `probe_exec(sysfs, seconds)` where ksmd runs
:mod:`.lock`           `AgentLock(path)`: one changer per node, `acquire() -> bool`, `release()`
=====================  =============================================================================
"""

from ksm_operator.kernel.baseline import Baseline, RestorePlan, SavedValue, restore_plan
from ksm_operator.kernel.cgroupfs import (
    Hierarchy,
    find_memory_hierarchy,
    join_host_cgroup_namespace,
    pids,
    walk,
)
from ksm_operator.kernel.cpus import format_cpus, is_online, read_affinity, write_affinity
from ksm_operator.kernel.enrol import (
    Advised,
    AlreadyMergeable,
    Enrolled,
    Intent,
    carry_out,
    carry_out_many,
    enrol,
    needs_repair,
    prepare,
    repair_after_exec,
)
from ksm_operator.kernel.errors import (
    KernelError,
    Postponed,
    ProcessGone,
    Refused,
    RemoteCallFailed,
    SysfsBusy,
    SysfsError,
    SysfsHeldUp,
    SysfsInvalid,
    SysfsReadOnly,
    Unsupported,
)
from ksm_operator.kernel.exclusions import SkipReason, why_not
from ksm_operator.kernel.exec_watch import ExecWatch
from ksm_operator.kernel.guard import Relief, relieve
from ksm_operator.kernel.headroom import (
    Level,
    MemoryEvents,
    Rooms,
    memory_headroom,
    node_headroom,
    tightest,
)
from ksm_operator.kernel.helper import Helper
from ksm_operator.kernel.ksm_enter import KsmEnterEvents
from ksm_operator.kernel.ksm_stat import (
    KsmStat,
    find_ksmd,
    ksmd_cpu_ns,
    read_ksm_stat,
    read_merging_pages,
)
from ksm_operator.kernel.lock import AgentLock
from ksm_operator.kernel.marks import Marks, read_program, settle
from ksm_operator.kernel.memory_lock import must_not_hang
from ksm_operator.kernel.mergeable import (
    Mergeable,
    is_marked,
    is_mergeable,
    mergeable_processes,
    merges_everything,
)
from ksm_operator.kernel.patience import Patience
from ksm_operator.kernel.patient_sysfs import PatientSysfs
from ksm_operator.kernel.payers import cgroup_inodes, cgroup_names, inodes_above, survey_payers
from ksm_operator.kernel.probe import KernelFeatures, probe, probe_exec
from ksm_operator.kernel.procfs import (
    Process,
    boot_id,
    find_process,
    is_alive,
    page_size,
    read_cgroup,
    read_meminfo,
    read_stat,
    read_status,
    read_vmstat,
)
from ksm_operator.kernel.ranges import Range
from ksm_operator.kernel.release import ReleaseProgress, release
from ksm_operator.kernel.release_all import release_all
from ksm_operator.kernel.remote import Syscall, Visit
from ksm_operator.kernel.shared_memory import share_memory
from ksm_operator.kernel.shares import Estimate, Share, Survey, phantom_of, share_of
from ksm_operator.kernel.smaps import Vma, read_merged_bytes, read_vmas
from ksm_operator.kernel.sysfs import HOST_KSM_ROOT, KsmSysfs, KsmValues, find_writable_root
from ksm_operator.kernel.tracer import RemoteCalls, Tracer
from ksm_operator.kernel.watch import (
    CgroupEvent,
    CgroupWatch,
    Created,
    Deleted,
    Entered,
    Rescan,
)
from ksm_operator.kernel.writers import OtherWriters

__all__ = [
    "HOST_KSM_ROOT",
    "Advised",
    "AgentLock",
    "AlreadyMergeable",
    "Baseline",
    "CgroupEvent",
    "CgroupWatch",
    "Created",
    "Deleted",
    "Enrolled",
    "Entered",
    "Estimate",
    "ExecWatch",
    "Helper",
    "Hierarchy",
    "Intent",
    "KernelError",
    "KernelFeatures",
    "KsmEnterEvents",
    "KsmStat",
    "KsmSysfs",
    "KsmValues",
    "Level",
    "Marks",
    "MemoryEvents",
    "Mergeable",
    "OtherWriters",
    "Patience",
    "PatientSysfs",
    "Postponed",
    "Process",
    "ProcessGone",
    "Range",
    "Refused",
    "ReleaseProgress",
    "Relief",
    "RemoteCallFailed",
    "RemoteCalls",
    "Rescan",
    "RestorePlan",
    "Rooms",
    "SavedValue",
    "Share",
    "SkipReason",
    "Survey",
    "Syscall",
    "SysfsBusy",
    "SysfsError",
    "SysfsHeldUp",
    "SysfsInvalid",
    "SysfsReadOnly",
    "Tracer",
    "Unsupported",
    "Visit",
    "Vma",
    "boot_id",
    "carry_out",
    "carry_out_many",
    "cgroup_inodes",
    "cgroup_names",
    "enrol",
    "find_ksmd",
    "find_memory_hierarchy",
    "find_process",
    "find_writable_root",
    "format_cpus",
    "inodes_above",
    "is_alive",
    "is_marked",
    "is_mergeable",
    "is_online",
    "join_host_cgroup_namespace",
    "ksmd_cpu_ns",
    "memory_headroom",
    "mergeable_processes",
    "merges_everything",
    "must_not_hang",
    "needs_repair",
    "node_headroom",
    "page_size",
    "phantom_of",
    "pids",
    "prepare",
    "probe",
    "probe_exec",
    "read_affinity",
    "read_cgroup",
    "read_ksm_stat",
    "read_meminfo",
    "read_merged_bytes",
    "read_merging_pages",
    "read_program",
    "read_stat",
    "read_status",
    "read_vmas",
    "read_vmstat",
    "release",
    "release_all",
    "relieve",
    "repair_after_exec",
    "restore_plan",
    "settle",
    "share_memory",
    "share_of",
    "survey_payers",
    "tightest",
    "walk",
    "why_not",
    "write_affinity",
]
