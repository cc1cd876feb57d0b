"""Whatever stands in a file of the kernel's, or in a message, it is read or refused as documented.

Names of processes, files and cgroups are anybody's choice, lines are cut off in the middle, and the
next kernel prints more than this one.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksm_operator.kernel.aarch64 import NAMES, parse_waited
from ksm_operator.kernel.cgroupfs import Hierarchy, parse_mountinfo, pids
from ksm_operator.kernel.errors import KernelError, ProcessGone
from ksm_operator.kernel.exclusions import effective_user, status_reason
from ksm_operator.kernel.headroom import cgroup_levels, parse_memory_stat, read_events
from ksm_operator.kernel.helper_messages import decode_answer, decode_greeting, decode_requests
from ksm_operator.kernel.ksm_stat import ksmd_cpu_ns, parse_ksm_stat, read_ksm_stat
from ksm_operator.kernel.maps import parse_maps
from ksm_operator.kernel.marks import Marks
from ksm_operator.kernel.procfs import (
    Process,
    Stat,
    find_process,
    parse_cgroup,
    parse_count,
    parse_fields,
    parse_meminfo,
    parse_stat,
    read_cgroup,
    read_meminfo,
    read_status,
)
from ksm_operator.kernel.smaps import parse_vmas, read_merged_bytes, read_vmas
from ksm_operator.kernel.threads import judge, parse_syscall

STAT = "1234 (a (b) c) S 1 1 1 0 -1 4194560 " + "9 " * 12 + "77 " + "5 " * 18 + "0 0 0\n"
MAPS = "7f00-7f10 rw-p 00000000 00:00 0    [stack]\n7f20-7f30 r-xp 0001 fe:01 42 /a b\n"
SMAPS = "7f00-7f10 rw-p 0 00:00 0 [heap]\nRss: 4 kB\nKSM: 4 kB\nVmFlags: rd mg \n"
STATUS = "Name:\tx\nUid:\t0\t0\t0\t0\nNSpid:\t7\t1\nVmLck:\t     100 kB\nSeccomp:\t0\n"
CGROUP = "4:memory:/kubepods/pod1\n1:name=systemd:/\n0::/kubepods.slice\n"
KSM_STAT = "ksm_rmap_items 5\nksm_process_profit -64\nksm_merge_any: yes\n"
MEMORY_STAT = "inactive_file 4096\nhigh 0\noom_kill 1\ntotal_inactive_file 8192\n"
MEMINFO = "MemTotal:       24566416 kB\nHugePages_Total:       0\n"
MOUNTINFO = (
    "29 1 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n"
    "35 1 0:32 /a\\040b /m\\134 rw - cgroup cgroup rw,memory\n"
)
SYSCALL = "202 0x7f 0x80 0x2 0x0 0x0 0xffffffff 0x7ffc0 0x7f00\n"
ANSWER = '{"visit":{"results":[0],"tid":7,"caught_in":"read","stopped_ns":5,"safeguard":""}}'
ERROR = '{"error":"Postponed","message":"m","attributes":{"pid":7,"reason":"Busy","detail":""}}'
REQUESTS = '[[7,5,[["prctl",[67,1,0,0,0],5.0]]]]'
GREETING = '{"oomScoreAdj":-1000}'
MARKS = '["Madvise",140733,[16,2,8,1],[]]'

Parser = Callable[[str], object]

# What may be raised beside nothing, with a real text.
PARSERS: dict[str, tuple[Parser, str, tuple[type[Exception], ...]]] = {
    "stat": (parse_stat, STAT, (ValueError,)),
    "maps": (lambda text: parse_maps(encoded(text)), MAPS, ()),
    "smaps": (parse_vmas, SMAPS, ()),
    "status": (lambda text: status_reason("pause", parse_fields(text)), STATUS, ()),
    "user": (lambda text: effective_user(parse_fields(text)), STATUS, ()),
    "cgroup": (parse_cgroup, CGROUP, ()),
    "ksm_stat": (parse_ksm_stat, KSM_STAT, ()),
    "memory.stat": (parse_memory_stat, MEMORY_STAT, ()),
    "meminfo": (parse_meminfo, MEMINFO, ()),
    "mountinfo": (parse_mountinfo, MOUNTINFO, ()),
    "syscall": (parse_syscall, SYSCALL, (ValueError,)),
    "waited": (parse_waited, SYSCALL, ()),
    "judged": (lambda text: judge(7, Stat("x", "S", 1, 0, 5, 0), text, text, NAMES), SYSCALL, ()),
    "answer": (lambda text: decode_answer(encoded(text)), ANSWER, (ValueError,)),
    "error": (lambda text: decode_answer(encoded(text)), ERROR, (ValueError,)),
    "requests": (lambda text: decode_requests(encoded(text)), REQUESTS, (ValueError,)),
    "greeting": (lambda text: decode_greeting(encoded(text)), GREETING, (ValueError, KernelError)),
    "marks": (lambda text: Marks.from_list(json.loads(text)), MARKS, (ValueError, TypeError)),
}


def decoded(data: bytes) -> str:
    """As the files are read: a name need not be text."""
    return data.decode(errors="surrogateescape")


def encoded(text: str) -> bytes:
    """Back to what stood in the file."""
    return text.encode(errors="surrogateescape")


NUMBERS = ["", "-1", "0x", "\u00b2", "\u0663", "9" * 5000, "1_0", "+4", "1e3", "nan", "Infinity"]
# Pieces that look like what belongs there.
PIECES = st.one_of(
    st.binary(max_size=12).map(decoded),
    st.sampled_from([*NUMBERS, " ", "\n", ":", "-", "(", ")", "[", "]", "{}", "null"]),
)


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """A real text with a few places cut out and something else put there."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + draw(PIECES) + text[end:]
    return text


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=50)
@given(st.data())
def test_damaged_text_is_read_or_refused(name: str, data: st.DataObject) -> None:
    """Another exception than the documented one would take the agent down with one odd process."""
    parser, text, raised = PARSERS[name]
    parser(text)
    with suppress(*raised):
        parser(data.draw(damaged(text)))


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=50)
@given(st.binary(max_size=200).map(decoded))
def test_any_text_is_read_or_refused(name: str, text: str) -> None:
    """Nor has it to look like anything."""
    parser, _, raised = PARSERS[name]
    with suppress(*raised):
        parser(text)


@pytest.mark.parametrize("decode", [decode_answer, decode_greeting, decode_requests])
def test_nesting_without_end_is_refused(decode: Callable[[bytes], object]) -> None:
    """What is too deep for the JSON parser is no message either."""
    with pytest.raises(ValueError):  # noqa: PT011 - each says it in its own words
        decode(b"[" * 100_000)


# What str.splitlines() takes for the end of a line beside the newline, which alone the kernel
# refuses or escapes in a name; and what somebody would put behind it.
BREAKS = st.sampled_from("\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
FORGED = st.sampled_from(
    [
        "0::",
        "5:memory:",
        "VmLck:\t0",
        "Uid:\t0\t0",
        "VmFlags: rd mg",
        "7f00-7f10 rw-p 0 00:00 0",
        "36 1 0:9 / /forged rw - cgroup2 cgroup2 rw",
    ]
)
NAMES_OF_OTHERS = st.lists(BREAKS | FORGED | st.sampled_from("ab:-\u00e4"), max_size=8).map("".join)


@given(NAMES_OF_OTHERS)
def test_no_name_makes_a_line_of_its_own(name: str) -> None:
    """A pod names its cgroups, processes and files: none of them may speak for the kernel."""
    cgroups = parse_cgroup(f"5:memory:/a/{name}\n1:name=systemd:/{name}\n0::/b\n")
    assert cgroups == {"memory": f"/a/{name}", "name=systemd": f"/{name}", "": "/b"}
    assert parse_fields(f"Name:\t{name}.\nUid:\t7\n").keys() == {"Name", "Uid"}
    (vma,) = parse_vmas(f"1000-2000 rw-p 0 00:01 7    /{name}\nVmFlags: rd sd\n")
    assert (vma.start, vma.name, sorted(vma.flags)) == (0x1000, f"/{name}", ["rd", "sd"])
    (mapping,) = parse_maps(encoded(f"1000-2000 rw-p 0000 00:01 7    /{name}\n")).ranges
    assert mapping.name == encoded(f"/{name}")
    path = name.replace(" ", "\\040").replace("\t", "\\011")
    (mount,) = parse_mountinfo(f"35 1 0:32 /{path} /m/{path} rw - cgroup cgroup rw,memory\n")
    assert (mount.root, mount.mount_point) == (f"/{name}", f"/m/{name}")


@given(st.binary(max_size=30).map(decoded) | st.sampled_from(NUMBERS))
def test_a_count_is_digits_and_nothing_else(text: str) -> None:
    """What Python takes for a number besides, the kernel does not print."""
    digits = text.strip()
    assert parse_count(text) == (int(digits) if re.fullmatch("[0-9]{1,20}", digits) else None)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "stat": (STAT, lambda proc: find_process(7, proc=proc)),
    "status": (STATUS, lambda proc: read_status(7, proc=proc)),
    "cgroup": (CGROUP, lambda proc: read_cgroup(7, proc=proc)),
    "ksm_stat": (KSM_STAT, lambda proc: read_ksm_stat(Process(7, 77), proc=proc)),
    "ksm_merging_pages": ("5\n", lambda proc: read_ksm_stat(Process(7, 77), proc=proc)),
    "smaps": (SMAPS, lambda proc: read_vmas(Process(7, 77), proc=proc)),
    "smaps_rollup": (SMAPS, lambda proc: read_merged_bytes(Process(7, 77), proc=proc)),
    "schedstat": ("5 6 7\n", lambda proc: ksmd_cpu_ns(7, proc=proc)),
}


@given(st.data())
def test_files_of_a_process_hold_any_bytes(data: st.DataObject) -> None:
    """A name that is no UTF-8, or an empty file, is no reason to fail in another way."""
    with TemporaryDirectory() as directory:
        process = Path(directory) / "7"
        (process / "task").mkdir(parents=True)
        for name, (text, _) in READERS.items():
            content = st.just(text) | st.binary(max_size=50).map(decoded) | damaged(text)
            (process / name).write_bytes(encoded(data.draw(content)))
        for _, reader in READERS.values():
            with suppress(KernelError, ProcessGone):
                reader(Path(directory))


@given(st.binary(max_size=60) | damaged(MEMORY_STAT).map(encoded))
def test_files_of_a_node_hold_any_bytes(content: bytes) -> None:
    """Limits, counters and process lists: what is not there is no limit, no event, no process."""
    with TemporaryDirectory() as directory:
        mount = Path(directory)
        names = ("memory.max", "memory.high", "memory.current", "memory.stat", "memory.events")
        for name in (*names, "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.failcnt"):
            (mount / name).write_bytes(content)
        (mount / "cgroup.procs").write_bytes(content)
        (mount / "meminfo").write_bytes(content)
        for version in (1, 2):
            hierarchy = Hierarchy(version, mount)
            cgroup_levels(hierarchy, mount)
            read_events(hierarchy, mount)
        assert all(pid > 0 for pid in pids(mount))
        read_meminfo(proc=mount)
