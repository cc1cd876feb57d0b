"""What `ksm-node explain` and `release` say to a person."""

import pytest

from ksm_operator.kernel import KernelError, Process, ReleaseProgress, SkipReason
from ksm_operator.node.change import describe_release
from ksm_operator.node.explain import WORDS, render

MIB = 1 << 20
ONE = Process(812, 1)


def amount(mebibytes: int, error: int = 0) -> dict[str, int]:
    """As the report has it."""
    return {"bytes": mebibytes * MIB, "error": error * MIB}


REPORT = {
    "processes": [
        {
            "pid": 812,
            "name": "python3",
            "cgroup": "/pod/c",
            "enrolment": {"text": "it would be enrolled, by prctl in thread 812 (poll)"},
            "mergedBytes": 48 * MIB,
            "paidBytes": amount(40),
            "unpaidBytes": amount(8, 1),
            "hugePages": {"bytes": 30 * MIB, "savedBytes": amount(6, 2), "pays": True},
        }
    ],
    "cgroups": [
        {
            "cgroup": "/pod/c",
            "mergedBytes": amount(48),
            "paidBytes": amount(40),
            "unpaidBytes": amount(8),
            "phantomBytes": amount(12),
            "tightest": "/pod",
            "headroomBytes": 14 * MIB,
            "headroom": [
                {"level": "/pod/c", "bytes": 60 * MIB, "demandBytes": 48 * MIB, "fits": True},
                {"level": "/pod", "bytes": 14 * MIB, "demandBytes": 48 * MIB, "fits": False},
            ],
        }
    ],
    "survey": {"every": 4, "processes": 3, "seconds": 0.25, "doubtfulBytes": 2 * MIB},
}


def test_explained_for_a_person() -> None:
    """Every question of the command has its answer, with the error where there is one."""
    text = render(REPORT)
    assert "812 python3 in /pod/c" in text
    assert "would be enrolled, by prctl in thread 812 (poll)" in text
    assert "its cgroup pays for 40.0 MiB, others for 8.0 MiB (± 1.0)" in text
    assert "30.0 MiB; merging would split them and give 6.0 MiB (± 2.0) back: worth it" in text
    assert "12.0 MiB charged to it that only others map" in text
    assert "14.0 MiB; the tightest is cgroup /pod" in text
    assert "48.0 MiB if all that it had merged became its own again: does not fit" in text
    assert "cgroup /pod lacks 38.0 MiB; ksm-node relieve --cgroup /pod/c" in text
    assert "2.0 MiB may be missing here, or be here wrongly" in text
    assert "1 merged page in 4 of 3 mergeable processes in 0.2 s" in text


def test_every_reason_has_words() -> None:
    """A name alone tells a person nothing."""
    assert set(WORDS) == set(SkipReason)


@pytest.mark.parametrize(
    ("outcome", "ok", "result", "words"),
    [
        (ReleaseProgress(True, 0, None, 3 * MIB), True, "Released", "3.0 MiB given back"),
        (
            ReleaseProgress(False, 9 * MIB, "NoHeadroom", 0, "/pod", 2 * MIB),
            False,
            "NoHeadroom",
            "9.0 MiB stay merged, because cgroup /pod lacks 2.0 MiB of room",
        ),
        (
            ReleaseProgress(False, 9 * MIB, "NoHeadroom", 0, "node", 0),
            False,
            "NoHeadroom",
            "because the node lacks room",
        ),
        (ReleaseProgress(False, MIB, "Busy"), False, "Busy", "try again later (Busy)"),
        (KernelError("no way"), False, "KernelError", "no way"),
    ],
)
def test_how_far_a_release_came(
    outcome: ReleaseProgress | KernelError, *, ok: bool, result: str, words: str
) -> None:
    """In words that say what to do next."""
    said = describe_release(ONE, outcome)
    assert (said.ok, said.result) == (ok, result)
    assert words in said.text
