"""Which tests each kernel has to pass: the table of docs/design/vm-tier.md."""

from collections.abc import Iterable

HERE = "tests/kernel"

ANYWHERE = (
    "test_probe.py::test_feature",
    "test_probe.py::test_method",
    "test_probe.py::test_headroom_of_a_limited_cgroup",
    "test_watch.py::test_nested_directories_are_seen[inotify]",
    "test_watch.py::test_many_at_once[inotify]",
    "test_watch.py::test_watch_through_the_root_of_another_process",
    "test_watch.py::test_walk_and_pids",
)
"""What needs no particular kernel."""

CANNOT = ("test_probe.py::test_the_call_is_made_or_said_to_be_impossible",)
"""Where processes cannot be enrolled by prctl: said, and no harm done."""

DUPLICATES = (
    "test_duplicates.py::test_pages_that_two_processes_hold_are_counted_as_duplicates",
    "test_duplicates.py::test_pages_that_fork_shares_are_counted_once",
    "test_duplicates.py::test_written_zeroes_count_and_the_kernels_zero_page_does_not",
)
"""How much merging would save, where nothing merges."""

FANOTIFY = (
    "test_watch.py::test_nested_directories_are_seen[fanotify]",
    "test_watch.py::test_many_at_once[fanotify]",
)
"""New cgroups without a watch per directory: Linux 6.6."""

MADVISE = (
    "test_madvise.py::test_populated_memory_is_marked_and_really_merged",
    "test_madvise.py::test_it_follows_growth_and_touches_nothing_twice",
    "test_madvise.py::test_what_the_program_withdraws_stays_withdrawn",
    "test_madvise.py::test_the_programs_own_marks_are_not_ours_to_give_back",
    "test_madvise.py::test_locked_ranges_are_left_alone",
    "test_madvise.py::test_a_range_that_went_away_meanwhile",
    "test_madvise.py::test_giving_back_waits_for_room",
    "test_madvise.py::test_a_record_is_of_one_program_only",
    "test_madvise.py::test_excluded_processes_are_refused_in_this_way_too",
)
"""Merging by ranges, which needs no prctl; x86-64."""

AGENT_BY_RANGES = (
    "test_agent_enrolment.py::test_by_ranges_a_process_is_followed_as_it_grows",
    "test_agent_enrolment.py::test_by_ranges_a_process_that_stays_as_it_is_gets_no_visit",
    "test_agent_enrolment.py::test_by_ranges_the_child_of_a_process_that_ended_is_given_back_too",
    "test_agent_enrolment.py::test_by_ranges_another_program_begins_anew",
    "test_agent_enrolment.py::test_by_ranges_children_are_found_whether_they_exec_or_not",
    "test_agent_enrolment.py::test_by_ranges_an_agent_that_is_killed_leaves_nothing_behind",
    "test_node_command.py::test_enrol_status_release",
    "test_node_command.py::test_what_was_marked_is_given_back_exactly_by_a_later_call",
    "test_node_command.py::test_children_give_back_what_they_have_from_their_parent",
)
"""What the agent and `ksm-node` do where there is no prctl."""

PAYERS = (
    "test_agent_phantom.py",
    "test_payers.py",
    "test_guard.py::test_a_payer_refills",
    "test_guard.py::test_a_payers_container_restarts",
    "test_guard.py::test_a_sharer_gives_no_more_than_it_has_room_for",
    "test_guard.py::test_nothing_is_broken_where_there_is_room",
    "test_guard.py::test_what_was_given_back_stays_apart_until_the_release",
    "test_guard.py::test_without_it_a_refill_kills_the_payer",
    "test_guard.py::test_without_it_a_restarted_container_is_killed",
    "test_release_order.py::test_a_payer_alone_is_left_whole",
    "test_release_order.py::test_sharers_go_before_payers",
    "test_release_order.py::test_the_payer_first_is_killed",
)
"""Who pays, and what would kill a pod without us.

A guest's files are in memory, so no page cache of it is clean: those tests need a disk.
"""

PRCTL = (
    "test_agent_enrolment.py",
    "test_enrol.py",
    "test_release.py::test_pages_merge_and_come_back",
    "test_release.py::test_release_of_one_that_never_merged",
    "test_release.py::test_no_headroom_touches_nothing",
    "test_release.py::test_a_cgroup_without_room_is_not_killed",
    "test_release.py::test_sparse_reservation_is_released_in_steps",
    "test_release.py::test_process_that_exits_is_gone",
    "test_remote.py::test_call_ends_as_if_nothing_had_been[epoll_wait]",
    "test_remote.py::test_call_ends_as_if_nothing_had_been[futex]",
    "test_remote.py::test_call_ends_as_if_nothing_had_been[nanosleep]",
    "test_remote.py::test_call_ends_as_if_nothing_had_been[read]",
)
"""Enrolling and releasing with PR_SET_MEMORY_MERGE: Linux 6.4, x86-64."""

RUNC = ("test_runc.py",)
"""The same in containers, with a limit and without prctl among their calls; x86-64."""

SUBSETS: dict[str, tuple[str, ...]] = {
    "6.1": (*ANYWHERE, *CANNOT, *DUPLICATES, *MADVISE, *AGENT_BY_RANGES),
    "6.12": (
        *(*ANYWHERE, *FANOTIFY, *PAYERS, *PRCTL, *RUNC),
        "test_duplicates.py",
        "test_madvise.py",
    ),
    "7": (
        *(*ANYWHERE, *FANOTIFY, *PAYERS, *PRCTL, *RUNC),
        "test_duplicates.py",
        "test_node_command.py",
        "test_remote.py::test_call_ends_as_if_nothing_had_been",
    ),
    "aarch64-6.12": (*ANYWHERE, *CANNOT, *FANOTIFY, "test_duplicates.py", "test_aarch64.py"),
}


def chosen(names: Iterable[str], kernel: str) -> list[str]:
    """Those of all tests' names that this kernel has to pass, in their order.

    Raises:
        LookupError: a line of the table names no test.
    """
    found = list(names)
    wanted: set[str] = set()
    for line in SUBSETS[kernel]:
        start = f"{HERE}/{line}"
        # A file, a test, or one of a test's cases.
        inside = (f"{start}::", f"{start}[")
        meant = {name for name in found if name == start or name.startswith(inside)}
        if not meant:
            raise LookupError(f"tests/vm/subset.py: {kernel}: there is no test {start}")
        wanted |= meant
    return [name for name in found if name in wanted]
