"""Reads that may hang, each waited for only so long.

What /proc tells of a process's memory is read under a lock of that process, which it can hold for
as long as it likes. The kernel ends such a wait for nothing but the reader's death, so a reader
that does not come back is left behind, as a thread that does no harm, and another takes its place.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MOST_LEFT_BEHIND: Final = 4
"""Readers that hang at the same time; with so many, nothing more is read until one comes back."""


class _Reader(threading.Thread, Generic[Item, Answer]):
    def __init__(self, read: Callable[[Item], Answer], items: Sequence[Item]) -> None:
        super().__init__(name="reader", daemon=True)
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.left_behind = False
        self._read = read
        self._items = items

    def run(self) -> None:
        for item in self._items:
            if self.left_behind:
                return
            self.answers.put(self._read(item))


class Patience(Generic[Item, Answer]):
    """Reads many things, and waits for each only so long.

    Args:
        read: gives the answer for one; raises nothing.
        seconds: how long it is waited for.
    """

    def __init__(self, read: Callable[[Item], Answer], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._hanging: dict[Item, _Reader[Item, Answer]] = {}

    def read_all(self, items: Sequence[Item]) -> Iterator[tuple[Item, Answer | None]]:
        """Give each with its answer, in order; None for one that did not come in time.

        One whose last reader still hangs is not asked again.
        """
        self._hanging = {item: one for item, one in self._hanging.items() if one.is_alive()}
        asked = [item for item in items if item not in self._hanging]
        answers = dict(zip(asked, self._answers(asked), strict=True))
        return ((item, answers.get(item)) for item in items)

    def _answers(self, items: Sequence[Item]) -> Iterator[Answer | None]:
        done = 0
        while done < len(items):
            if len(self._hanging) >= MOST_LEFT_BEHIND:
                yield from [None] * (len(items) - done)
                return
            reader = _Reader(self._read, items[done:])
            reader.start()
            while done < len(items):
                done += 1
                try:
                    yield reader.answers.get(timeout=self._seconds)
                except queue.Empty:
                    reader.left_behind = True
                    self._hanging[items[done - 1]] = reader
                    yield None
                    break
