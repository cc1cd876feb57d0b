"""Whom the thread that looks for foreign mergers looks at."""

import os
import queue

import pytest

from ksm_operator.agent import foreign_watch
from ksm_operator.agent.foreign_watch import ROUND_SECONDS, ROUND_UNTOLD_SECONDS, ForeignWatch


class Looks:
    """A watch of this machine's processes whose thread is never started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._looked: list[int] = []
        monkeypatch.setattr(foreign_watch, "candidate", self._look)
        self.watch = ForeignWatch(
            "memory",
            queue.SimpleQueue(),
            {"/enrolled": [os.getpid()], "/selected": [os.getppid()]}.__getitem__,
            shows_flag=True,
        )
        self.watch.take_domain({"/enrolled", "/selected"}, {"/enrolled"}, look=False)
        self._now = 1000.0

    def _look(self, pid: int, _controller: str) -> None:
        self._looked.append(pid)

    def round(self) -> set[int]:
        """The next one, whole."""
        self._looked.clear()
        self._now += ROUND_SECONDS + ROUND_UNTOLD_SECONDS
        self.watch._go_on(self._now)
        while self.watch._round:
            self._now += 1.0
            self.watch._go_on(self._now)
        return set(self._looked)


def test_a_round_passes_over_enrolled_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold most processes of a full node; nothing that is found out of them matters."""
    looks = Looks(monkeypatch)
    assert {os.getpid(), os.getppid()} <= looks.round(), "the first is of all processes"
    later = looks.round()
    assert os.getppid() in later
    assert os.getpid() not in later
    looks.watch.ask()
    assert os.getpid() in looks.round(), "somebody waits for a look at all"
