"""The agent and processes that live in huge pages: with real memory, looks and merging."""

import sys
from collections.abc import Callable, Iterator

import pytest

from kernel.agents import Node, one_container
from kernel.conftest import Cgroup, Holders, Start, Target
from kernel.huge_programs import MIB, PROGRAM, READY, SIZE, huge
from kernel.test_release import merge, merged
from ksm_operator.kernel import Hierarchy, KernelFeatures, Tracer
from support import kernel

GROWS = 'import sys\nprint("ready", flush=True)\nsys.stdin.readline()\n' + PROGRAM + READY


@pytest.fixture
def node(
    hierarchy: Hierarchy, prctl: KernelFeatures, tracer: Tracer, cgroup: Cgroup
) -> Iterator[Node]:
    """One that enrols processes as a whole; all is given back in the end."""
    with one_container(hierarchy, prctl, tracer, cgroup) as made:
        yield made


@pytest.fixture
def pair(start: Start, cgroup: Cgroup) -> Callable[..., list[Target]]:
    """Two in the container that live in huge pages, of which one page in `every` is the same."""

    def begin(every: int, code: str = PROGRAM + READY) -> list[Target]:
        command = (sys.executable, "-u", "-c", code, str(SIZE), str(every))
        made = [start(*command) for _ in range(2)]
        for one in made:
            cgroup.add(one.pid)
        return made

    return begin


def enrolled(targets: list[Target]) -> list[bool]:
    """Which of them merge."""
    return [bool(kernel.merge_any(one.pid)) for one in targets]


def keep_huge_pages(targets: list[Target]) -> bool:
    """Whether none has lost any."""
    return all(huge(one) >= (SIZE - 4) * MIB for one in targets)


@pytest.mark.usefixtures("ksmd")
def test_only_those_are_enrolled_for_whom_it_pays(
    node: Node, pair: Callable[..., list[Target]], holder: Holders, tracer: Tracer
) -> None:
    """Two percent are not worth the huge pages and half of the memory is; both are looked at."""
    poor, rich = pair(50), pair(2)
    node.until(lambda: all(enrolled(rich)), "those who share much are enrolled")
    node.until(lambda: all(merged(one) > 0.9 * SIZE // 2 * MIB for one in rich), "and merged")
    merge(tracer, holder(2), holder(2), mebibytes=2)  # ksmd has had its chance
    assert enrolled(poor) == [False, False]
    assert keep_huge_pages(poor)
    assert node.skipped() == {"HugePages": 2}


def test_whom_huge_pages_kept_out_is_scanned_at_once(
    node: Node, cgroup: Cgroup, pair: Callable[..., list[Target]], holder: Holders
) -> None:
    """It comes with all of its memory, to a container that was seen to: ksmd may be at rest."""
    small = holder(1, cgroup, "small")
    node.until(lambda: all(enrolled([small])), "the container is enrolled")
    assert node.hands.enrolment.begun == 1
    rich = pair(2)
    node.until(lambda: node.skipped() == {"HugePages": 2}, "both are kept out")
    assert node.hands.enrolment.begun == 1
    node.until(lambda: all(enrolled(rich)), "both are enrolled")
    assert node.hands.enrolment.begun > 1


def test_who_comes_to_live_in_huge_pages_is_asked_then(
    node: Node, pair: Callable[..., list[Target]], ksm_settings: object
) -> None:
    """A container is enrolled before it has memory; ksmd would split all that it gets later."""
    poor = pair(50, GROWS)
    node.until(lambda: all(enrolled(poor)), "both are enrolled")
    for one in poor:
        one.tell("grow")
        assert one.line() == "ready"
    node.until(lambda: not any(enrolled(poor)), "both are let go")
    kernel.write_setting("run", 1)
    node.until(lambda: node.hands.enrolment.huge_pages.answered, "they were looked at")
    assert keep_huge_pages(poor)
    assert node.skipped() == {"HugePages": 2}


def test_the_policy_may_preserve_and_split(
    node: Node, pair: Callable[..., list[Target]], ksm_settings: object
) -> None:
    """A person may know better than any look, and an edit is obeyed in both directions."""
    rich = pair(2)
    rule = node.hands.enrolment.huge_pages
    rule.obey("Preserve")
    node.until(lambda: node.skipped() == {"HugePages": 2}, "both are left alone")
    assert not any(enrolled(rich))
    rule.obey("Split")
    node.until(lambda: all(enrolled(rich)), "both are enrolled at once")
    rule.obey("Preserve")
    node.until(lambda: not any(enrolled(rich)), "both are let go")
