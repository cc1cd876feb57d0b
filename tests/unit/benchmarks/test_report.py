"""What people read of a benchmark."""

import math

from benchmarks.governor.outcome import Outcome, Sample
from benchmarks.governor.report import HEAD, number, table, times, verdicts

GIB = 1 << 30


def flat(gib: float, cpu: float, *, huge: tuple[int, int] = (0, 0)) -> Outcome:
    """Ten seconds with the same saving."""
    samples = [
        Sample(at=at, saved=int(gib * GIB), profit=int(gib * GIB), ksmd=cpu * at / 10, breaks=0)
        for at in (0.0, 10.0)
    ]
    first, last = samples
    return Outcome(
        (
            Sample(first.at, first.saved, first.profit, first.ksmd, 0, huge[0]),
            Sample(last.at, last.saved, last.profit, last.ksmd, 0, huge[1]),
        )
    )


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
    text = table("load", {"theirs": flat(1, 2), "ours": flat(2, 1)}, "ours")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {line.count("|") for line in rows} == {HEAD.count("|")}


def test_what_we_lose_stands_out() -> None:
    """A benchmark that hides that is none."""
    row = cells(table("load", {"theirs": flat(2, 1), "ours": flat(1, 1)}, "ours"), "theirs")
    assert row["ours to it 2"] == "**0.50 x**"
    assert row["ours to it 4"] == "**0.50 x**"


def test_figures_are_in_their_units() -> None:
    """GiB for seconds, for each CPU second."""
    row = cells(table("load", {"one": flat(2, 4)}, "ours"), "one")
    assert row["GiB s saved 3"] == "20.0"
    assert row["GiB s for a CPU s 1"] == "5.00"
    assert row["saved at the end 6"] == "2,048 MiB"
    assert row["90 % of the best after 7"] == "0 s"
    assert row["of a CPU 10"] == "40.0 %"
    assert row["ours to it 2"] == "", "ours was not run"


def test_all_of_it_has_to_be_better() -> None:
    """More for each CPU second is nothing if it is because nearly nothing is saved."""
    outcomes = {"a": flat(1, 1), "b": flat(4, 10), "ours": flat(2, 1)}
    met, missed = verdicts(outcomes, "ours", least_ratio=1.5, profitable=True)
    assert met.startswith("met: against a: 2.00 x")
    assert missed.startswith("**MISSED**: against b")
    assert "**0.50 x** the saving" in missed


def test_where_nothing_is_to_be_saved_nothing_is_to_be_spent() -> None:
    """And nobody's huge pages are to be split for it."""
    outcomes = {"ours": flat(0, 0.05, huge=(64, 64))}
    assert all(
        line.startswith("met")
        for line in verdicts(outcomes, "ours", least_ratio=1, profitable=False)
    )
    outcomes = {"ours": flat(0, 1, huge=(64, 62))}
    assert all(
        line.startswith("**MISSED**")
        for line in verdicts(outcomes, "ours", least_ratio=1, profitable=False)
    )


def test_what_could_not_be_measured_is_no_success() -> None:
    """A machine that gives no huge pages cannot lose any."""
    lines = verdicts({"ours": flat(0, 0)}, "ours", least_ratio=1, profitable=False)
    assert [line.split(":")[0] for line in lines] == ["met", "**not shown**"]


def test_no_verdict_without_ours() -> None:
    """A run of the peers alone judges nobody."""
    assert not list(verdicts({"a": flat(1, 1)}, "ours", least_ratio=1, profitable=True))


def test_numbers_that_are_none() -> None:
    """Who saves without a CPU second has no number for it."""
    assert number(math.inf) == "no CPU"
    assert times(math.inf) == "all"
