"""What the planner is told of a survey, and the order where there is none."""

from ksm_operator.kernel import Process, Survey
from ksm_operator.kernel.headroom import NODE
from ksm_operator.kernel.release_all import as_they_are
from ksm_operator.kernel.release_plan import Pages, Part, Step
from ksm_operator.kernel.scene import shared_pages
from ksm_operator.kernel.shares import Cost, SharedPages

ONE, TWO = Process(1, 10), Process(2, 20)
PATHS = {7: ("/pod/c", "/pod", "/", NODE)}


def test_a_sample_stands_for_the_whole() -> None:
    """Pages of a sample count as often as pages were passed over; strangers are marked."""
    shared = (
        SharedPages(payer=7, mappers=((ONE, 1), (TWO, 2)), elsewhere=0, pages=3),
        SharedPages(payer=9, mappers=((ONE, 1),), elsewhere=4, pages=1),
    )
    survey = Survey(shared, 16, 4096, frozenset(), Cost(0, 0, 0.0))
    known, unknown = shared_pages(survey, PATHS)
    assert known == Pages(PATHS[7], ((ONE, 1), (TWO, 2)), False, 3 * 16 * 4096)
    assert unknown == Pages((NODE,), ((ONE, 1),), True, 16 * 4096)


def test_as_they_are() -> None:
    """Where the kernel does not tell who pays, everybody goes whole, in the order given."""
    plan = as_they_are([TWO, ONE])
    assert plan.steps == (Step(TWO, Part.REST, 0), Step(ONE, Part.REST, 0))
    assert not plan.left
