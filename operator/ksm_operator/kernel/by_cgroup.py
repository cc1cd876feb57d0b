"""The shares of many cgroups from one survey, and what each would use without merging. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ksm_operator.kernel.shares import Estimate, Share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ksm_operator.kernel.procfs import Process
    from ksm_operator.kernel.shares import Survey


def shares_of_all(
    survey: Survey, homes: Mapping[Process, str], payers: Mapping[int, str]
) -> dict[str, Share]:
    """What `share_of` says of each of many cgroups, going over the survey once.

    Args:
        survey: of every process of these cgroups.
        homes: in which of them a process lives; who lives elsewhere is not in it.
        payers: which of them the inode of a cgroup belongs to: its own or of one below.
    """
    parts: dict[str, tuple[list[tuple[int, int]], ...]] = {
        name: ([], [], [], []) for name in {*homes.values(), *payers.values()}
    }
    for each in survey.shared:
        own: defaultdict[str, int] = defaultdict(int)
        for process, times in each.mappers:
            if process in homes:
                own[homes[process]] += times
        payer = payers.get(each.payer)
        for name, mappings in own.items():
            merged, paid, unpaid, _ = parts[name]
            merged.append((mappings, each.pages))
            (paid if name == payer else unpaid).append((1, each.pages))
        if payer is not None and payer not in own:
            parts[payer][3].append((1, each.pages))
    return {name: Share(*(survey.amount(one) for one in lists)) for name, lists in parts.items()}


def without_merging(share: Share, working_set: int, zero_bytes: int) -> Estimate:
    """What a cgroup would use if none of its pages were merged.

    Every mapping of a merged page would be a page of its own. One that the cgroup is charged for is
    in its working set already, and what it is charged for others would be theirs. Too much where
    its processes would share a page by fork: from a merged page one cannot tell.

    Args:
        share: of the cgroup.
        working_set: what it uses, see `usage.read_working_set`.
        zero_bytes: of its pages that ksmd mapped to the kernel's zero page, for which nobody pays.
    """
    merged, paid, phantom = share.merged, share.paid, share.phantom
    size = working_set + merged.size - paid.size - phantom.size + zero_bytes
    return Estimate(max(0, size), merged.error + paid.error + phantom.error)
