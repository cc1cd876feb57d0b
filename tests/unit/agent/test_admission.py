"""Who has too little room to gain anything by merging."""

import pytest

from ksm_operator.agent.admission import NO_HEADROOM, has_headroom, without_headroom
from ksm_operator.agent.seen import Seen
from ksm_operator.kernel import Process
from ksm_operator.kernel.headroom import Level

MIB = 1 << 20


@pytest.mark.parametrize(
    ("rooms", "may"),
    [
        ((None, None), True),
        ((64 * MIB, None), True),
        ((5 * MIB, 5 * MIB), True),
        ((4 * MIB, None), False),
        ((None, 1 * MIB), False),
        ((-1, None), False),
        ((), True),
    ],
)
def test_room_of_a_container_and_its_pod(rooms: tuple[int | None, ...], *, may: bool) -> None:
    """One of them that is full is enough to be killed for."""
    assert has_headroom(Level("/x", room) for room in rooms) is may


def test_containers_that_were_kept_out_are_named() -> None:
    """By them pods are counted; another reason is another count."""
    seen = {
        "/full": Seen(skipped={Process(1, 1): NO_HEADROOM}),
        "/other": Seen(skipped={Process(2, 1): "Locked"}),
        "/left": Seen(skipped={Process(3, 1): NO_HEADROOM}),
    }
    assert without_headroom(seen, ["/full", "/other", "/new"]) == ["/full"]
