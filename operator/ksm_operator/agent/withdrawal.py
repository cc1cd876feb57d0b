"""Measures what merging gains and costs each container, and lets those go that do not pay."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.profit import Holding, Profit, Spent
from ksm_operator.agent.reading import available_percent
from ksm_operator.agent.record import adopt_all
from ksm_operator.agent.worth import price
from ksm_operator.kernel import KernelError, page_size, read_ksm_stat, read_meminfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ksm_operator.agent.host import Host
    from ksm_operator.agent.releasing import Releasing
    from ksm_operator.agent.seen import Seen
    from ksm_operator.agent.state import Container, State
    from ksm_operator.kernel import KsmValues, Process

log = logging.getLogger(__name__)

NO_PROFIT: Final = "NoProfit"
"""Why processes are left alone."""
BOOK_SECONDS: Final = 300.0
"""Between two entries in the accounts: each reads a file of every process that is enrolled."""


class Withdrawal:
    """The hands of `Profit`.

    Attributes:
        profit: the accounts.
    """

    def __init__(self, host: Host, state: State, releasing: Releasing) -> None:
        """Have nothing measured."""
        self.profit = Profit()
        self._host = host
        self._state = state
        self._releasing = releasing
        self._next = 0.0

    def is_due(self) -> bool:
        """Whether it is time to measure."""
        return time.monotonic() >= self._next

    def measure(self, values: KsmValues) -> None:
        """Book what was gained and spent since the last time.

        Args:
            values: ksmd's files now.
        """
        self._next = time.monotonic() + BOOK_SECONDS
        shared, sharing = values.pages_shared or 0, values.pages_sharing or 0
        spent = Spent(
            cpu=self._host.ksmd_cpu_ns() / 1e9,
            breaks=self._host.breaks(page_size()),
            full_scans=values.full_scans or 0,
            kept_share=shared / (shared + sharing) if shared else 0.0,
            price=price(available_percent(read_meminfo())),
        )
        holdings = {path: _holding(one) for path, one in self._state.containers.items()}
        hierarchy = self._host.hierarchy
        gone = [one for one in self.profit.withdrawn if not hierarchy.path(one).is_dir()]
        losers = self.profit.settle(holdings, spent, time.monotonic(), page_size(), gone=gone)
        for path in losers:
            extra = {"cgroup": path, "podUID": self._state.containers[path].pod_uid}
            log.info("container withdrawn: merging it does not pay", extra=extra)

    def keeps_out(self, path: str) -> bool:
        """Whether a container is left alone for now."""
        return self.profit.keeps_out(path, time.monotonic())

    def let_go(self, path: str, living: Iterable[Process], seen: Seen) -> bool:
        """Have everybody released who is enrolled in a container.

        Args:
            path: the container's cgroup.
            living: who lives in it.
            seen: where it is noted why they are left alone.

        Returns:
            Whether nobody has to go any more.
        """
        container = self._state.containers.get(path)
        if container is not None and container.enrolled:
            adopt_all(living, container)
            for process in container.enrolled:
                self._releasing.dismiss(path, process)
        for process in living:
            if container is None or process not in container.own:
                seen.skip(process, NO_PROFIT)
        return container is None or not container.enrolled


def _holding(container: Container) -> Holding:
    records = merged = 0
    for process in container.enrolled:
        try:
            stat = read_ksm_stat(process)
        except KernelError:
            continue
        records += stat.rmap_items
        merged += (stat.merging_pages or 0) + (stat.zero_pages or 0)
    return Holding(records, merged)
