import pytest
from demo.figures import (
    Pod,
    Sample,
    by_node,
    has_levelled,
    is_at_rest,
    meminfo,
    pod_table,
    pods,
    sample,
    table,
)

MIB = 1 << 20


def at(seconds: float, saved: int, scans: int) -> Sample:
    """A sample; CPU does not matter here."""
    return Sample(seconds, saved * MIB, 0.0, scans)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], False),
        ([at(0, 1000, 9)], False),
        ([at(0, 400, 1), at(3, 800, 1)], False),
        ([at(0, 800, 1), at(3, 981, 2)], False),
        ([at(0, 981, 2), at(3, 981, 2)], True),
        ([at(0, 700, 2), at(3, 700, 2)], False),
        ([at(0, 700, 2), at(3, 700, 3), at(6, 700, 5)], True),
        ([at(0, 0, 2), at(3, 0, 3), at(6, 0, 9)], False),
    ],
)
def test_watching_ends_when_savings_stop_growing(samples: list[Sample], *, expected: bool) -> None:
    """Too early and the demo understates; never and it does not end by itself."""
    assert has_levelled(samples, 1000 * MIB) is expected


@pytest.mark.parametrize(
    ("cpu", "nodes", "expected"),
    [((1.0,), 1, False), ((1.0, 1.1), 1, False), ((1.0, 1.1), 2, True)],
)
def test_ksmd_rests_when_it_uses_next_to_nothing(
    cpu: tuple[float, ...], nodes: int, *, expected: bool
) -> None:
    """The demo promises that it comes to rest by itself: 0.1 s in 3 is 33m."""
    samples = [Sample(3.0 * number, 0, used, 0) for number, used in enumerate(cpu)]
    assert is_at_rest(samples, nodes) is expected


def test_a_sample_adds_up_nodes() -> None:
    """Savings are of the cluster, and the slowest node says how far the scan is."""
    text = (
        "/sys/kernel/mm/ksm/pages_sharing:{}\n/sys/kernel/mm/ksm/ksm_zero_pages:1\n"
        "/sys/kernel/mm/ksm/full_scans:{}\n/proc/37/schedstat:2500000000 7 8\n"
    )
    found = sample(5.0, [text.format(10, 3), text.format(20, 4)], 4096)
    assert found == Sample(5.0, 32 * 4096, 5.0, 3)


def test_a_sample_does_without_files_that_older_kernels_lack() -> None:
    """ksm_zero_pages came with 6.6."""
    text = "/k/pages_sharing:10\n/k/full_scans:1\n/proc/37/schedstat:1 2 3\n"
    assert sample(0.0, [text], 4096).saved == 10 * 4096


def test_pods_that_wait_or_leave_are_left_out() -> None:
    """They have no node to look at, or will be gone in a moment."""
    items = [
        {"metadata": {"name": "a", "uid": "1"}, "spec": {"nodeName": "n"}},
        {"metadata": {"name": "b", "uid": "2"}, "spec": {}},
        {
            "metadata": {"name": "c", "uid": "3", "deletionTimestamp": "x"},
            "spec": {"nodeName": "n"},
        },
    ]
    assert by_node(pods(items)) == {"n": [Pod("a", "1", "n")]}


def test_meminfo_is_read_in_bytes() -> None:
    """The kernel writes kB."""
    assert meminfo("MemTotal:  16 kB\nMemAvailable: 8 kB\n") == {
        "MemTotal": 16384,
        "MemAvailable": 8192,
    }


def test_columns_line_up() -> None:
    """People read down a column."""
    assert table([["NAME", "N"], ["a", "10"]]) == "NAME   N\na     10"


def test_each_pod_is_told_by_its_own_processes() -> None:
    """A process counted with another pod would hide one that was missed."""
    processes = [
        {"uid": "1", "pid": 7, "mergeable": True, "merged": MIB},
        {"uid": "1", "pid": 8, "mergeable": False, "merged": 0},
        {"uid": "2", "pid": 9, "mergeable": True, "merged": 5 * MIB},
    ]
    shown = pod_table([Pod("a", "1", "n")], processes, {7: 2 * MIB, 8: MIB})
    assert shown.splitlines()[1].split() == ["a", "2", "1", "3", "MiB", "1", "MiB"]
