"""What people read of a benchmark."""

import math

from benchmarks.governor.outcome import Outcome, Sample
from benchmarks.governor.report import HEAD, Played, number, places, table, targets, times

GIB = 1 << 30


def flat(gib: float, cpu: float, *, huge: tuple[int, int] = (0, 0)) -> Outcome:
    """Ten seconds with the same saving."""
    samples = [
        Sample(at=at, saved=int(gib * GIB), net=int(gib * GIB), ksmd=cpu * at / 10, breaks=0)
        for at in (0.0, 10.0)
    ]
    first, last = samples
    return Outcome(
        (
            Sample(first.at, first.saved, first.net, first.ksmd, 0, huge[0]),
            Sample(last.at, last.saved, last.net, last.ksmd, 0, huge[1]),
        )
    )


def played(*, least_ratio: float = 1.0, profitable: bool = True, **outcomes: Outcome) -> Played:
    """A load, by the algorithms' names."""
    return Played("load", outcomes, "ours", least_ratio, profitable)


def cells(text: str, name: str) -> dict[str, str]:
    """One line of a table by its heads."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    heads = next(line for line in lines if line and line[0] == "algorithm")
    row = next(line for line in lines if line and line[0] == name)
    assert len(heads) == len(row)
    return {
        f"{head} {index}": cell for index, (head, cell) in enumerate(zip(heads, row, strict=True))
    }


def test_every_line_has_as_many_cells_as_the_head() -> None:
    """Or Markdown shows no table."""
    text = table(played(theirs=flat(1, 2), ours=flat(2, 1)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {line.count("|") for line in rows} == {HEAD.count("|")}
    rows = places([played(a=flat(1, 2), ours=flat(2, 1)), played(b=flat(1, 2))]).splitlines()
    assert {line.count("|") for line in rows if line} == {5}


def test_what_we_lose_stands_out() -> None:
    """A benchmark that hides that is none."""
    lost = played(theirs=flat(2, 1), ours=flat(1, 1))
    row = cells(table(lost), "theirs")
    assert row["ours to it 2"] == "**0.50 x**"
    assert row["ours to it 4"] == "**0.50 x**"
    assert "| load | 2 of 2 | **0.50 x**; **0.50 x**; **0.50 x** |" in places([lost])


def test_figures_are_in_their_units() -> None:
    """GiB for seconds, for each CPU second."""
    row = cells(table(played(one=flat(2, 4, huge=(3 << 20, 1 << 20)))), "one")
    assert row["net GiB s saved 3"] == "20.0"
    assert row["net GiB s for a CPU s 1"] == "5.00"
    assert row["net MiB in the second half 5"] == "2,048"
    assert row["90 % of the best after 7"] == "0 s"
    assert row["of a CPU 10"] == "40.0 %"
    assert row["huge pages lost 11"] == "2 of 3 MiB"
    assert row["ours to it 2"] == "", "ours was not run"


def test_each_of_the_others_has_to_be_beaten() -> None:
    """More for each CPU second is nothing if it is because nearly nothing is saved."""
    (met,) = targets([played(least_ratio=1.5, a=flat(1, 1), ours=flat(2, 1))])
    assert met.startswith("- met: load: at least 1.5 x")
    (missed,) = targets([played(a=flat(1, 1), b=flat(4, 10), ours=flat(2, 1))])
    assert missed.startswith("- **MISSED**: load")
    assert missed.endswith("not against b (5.00 x; **0.50 x**; **0.50 x**).")


def test_where_nothing_is_to_be_saved_nothing_is_to_be_spent() -> None:
    """And nobody's huge pages are to be split for it."""
    idle = played(profitable=False, ours=flat(0, 0.05, huge=(64, 64)))
    assert all(line.startswith("- met") for line in targets([idle]))
    busy = played(profitable=False, ours=flat(0, 1, huge=(64, 62)))
    cpu, _, huge = targets([busy])
    assert cpu.startswith("- **MISSED**")
    assert huge.startswith("- **MISSED**")


def test_what_could_not_be_measured_is_no_success() -> None:
    """A machine that gives no huge pages cannot lose any."""
    lines = list(targets([played(profitable=False, ours=flat(0, 0))]))
    assert lines[-1].startswith("- **not shown**")


def test_no_verdict_without_ours() -> None:
    """A run of the peers alone judges nobody."""
    assert not list(targets([played(a=flat(1, 1))]))


def test_numbers_that_are_none() -> None:
    """Who saves without a CPU second has no number for it."""
    assert number(math.inf) == "no CPU"
    assert times(math.inf) == "all"
    assert times(math.nan) == "-"
