"""What `ksm-node relieve` says to a person."""

import json

from ksm_operator.node.relieve import render

MIB = 1 << 20


def test_nothing_to_do() -> None:
    """The good case has words too."""
    assert "there is room" in render({"givenBack": [], "exposed": []}, "text")


def test_who_gave_what_back_and_who_is_still_short() -> None:
    """With the way out for each: others may get room, or the cgroup itself is too small."""
    report = {
        "givenBack": [
            {
                "pid": 812,
                "name": "python3",
                "cgroup": "/pod/c",
                "bytes": 33 * MIB,
                "ranges": [[4096, 8192]],
            }
        ],
        "exposed": [
            {"cgroup": "/pod", "lackingBytes": 5 * MIB, "sharedBytes": 5 * MIB},
            {"cgroup": "node", "lackingBytes": 7 * MIB, "sharedBytes": 0},
        ],
    }
    text = render(report, "text")
    assert "812 python3 in /pod/c: 33.0 MiB given back" in text
    assert "cgroup /pod lacks 5.0 MiB" in text
    assert "others that map pages it pays for have no room" in text
    assert "the node lacks 7.0 MiB of room for what it had merged, and would without" in text
    assert json.loads(render(report, "json")) == report
