"""How often a process that is dear to look at is looked at."""

import pytest

from ksm_operator.agent.verdicts import (
    DEAR_CPU_SECONDS,
    MOST_CPU_SHARE,
    UNASKED_SECONDS,
    Verdict,
    Verdicts,
)
from ksm_operator.kernel import Process

GIB_SECONDS = 0.028
"""What the kernel takes to tell the ranges of one GiB."""
ONE = Process(1, 1)


@pytest.mark.parametrize(("gib", "machines"), [(256, 1), (8, 30), (1, 50)])
def test_looks_take_no_more_than_their_share(gib: int, machines: int) -> None:
    """A virtual machine's memory is locked while it is read, and its faults wait."""
    verdicts, spent, hours = Verdicts(), 0.0, 24
    everybody = [Process(1 + number, 1) for number in range(machines)]
    first = machines * gib * GIB_SECONDS
    for now in range(0, hours * 3600, 5 if machines == 1 else 300):
        for process in everybody:
            if verdicts.get(process, now) is None:
                spent += gib * GIB_SECONDS
                verdicts.keep(process, Verdict(True, gib * GIB_SECONDS, now))
    assert spent - first <= 1.01 * MOST_CPU_SHARE * hours * 3600
    assert spent > first, "none is forgotten"


def test_what_is_cheap_is_looked_at_whenever_somebody_wants_it() -> None:
    """From 6.14 on the kernel says it in one line, and a pause ends sooner."""
    verdicts = Verdicts()
    verdicts.keep(ONE, Verdict(True, DEAR_CPU_SECONDS / 2, 100.0))
    assert verdicts.get(ONE, 100.0) is None


def test_a_verdict_is_good_until_the_next_look() -> None:
    """Whoever merged then is paused for, whoever did not is not."""
    verdicts = Verdicts()
    verdicts.keep(ONE, Verdict(False, 1.0, 100.0))
    assert verdicts.get(ONE, 99.0 + 1.0 / MOST_CPU_SHARE) is False
    assert verdicts.get(ONE, 100.0 + 1.0 / MOST_CPU_SHARE) is None
    verdicts.keep(ONE, Verdict(True, 1.0, 300.0))
    assert verdicts.get(ONE, 300.0) is True
    assert verdicts.get(Process(1, 2), 300.0) is None, "its pid was given out again"


def test_one_that_asks_is_believed_until_the_next_look() -> None:
    """It must not be in the pool for minutes because it is too large to be looked at."""
    verdicts = Verdicts()
    verdicts.keep(ONE, Verdict(False, 1.0, 100.0))
    verdicts.accuse(ONE)
    assert verdicts.get(ONE, 101.0) is True
    assert verdicts.get(ONE, 100.0 + 1.0 / MOST_CPU_SHARE) is None, "asking puts nothing off"
    verdicts.accuse(Process(2, 1))
    assert verdicts.get(Process(2, 1), 101.0) is None


def test_who_has_ended_is_forgotten() -> None:
    """Others would be looked at more and more rarely for its sake."""
    verdicts, soon = Verdicts(), 1.0 / MOST_CPU_SHARE
    verdicts.keep(ONE, Verdict(True, 1.0, 0.0))
    later = 2 * soon + UNASKED_SECONDS
    verdicts.keep(Process(2, 1), Verdict(True, 1.0, later))
    assert verdicts.get(Process(2, 1), later + soon) is None, "it is the only one"
