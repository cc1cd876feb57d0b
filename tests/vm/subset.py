"""Which tests each kernel has to pass: the table of docs/design/vm-tier.md."""

from collections.abc import Iterable

HERE = "tests/kernel"

ELSEWHERE = ("test_agent_debt.py", "test_frozen.py")
"""Files that need cgroup version 2, or little memory: not every machine collects them."""

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

DUPLICATES_AND_MERGED = (*DUPLICATES, "test_duplicates.py::test_merged_pages_count_as_before")
"""The same beside pages that are merged, which the kernel shows in its own way."""

LIMIT = ("test_agent_governor.py::test_the_limit_holds_over_any_ten_seconds",)
"""How ksmd goes over memory, and what holes in it cost, is different on each."""

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
"""Merging by ranges, which needs no prctl."""

AGENT_BY_RANGES = (
    "test_agent_ranges.py::test_by_ranges_a_process_is_followed_as_it_grows",
    "test_agent_ranges.py::test_by_ranges_a_process_that_stays_as_it_is_gets_no_visit",
    "test_agent_ranges.py::test_by_ranges_the_child_of_a_process_that_ended_is_given_back_too",
    "test_agent_ranges.py::test_by_ranges_another_program_begins_anew",
    "test_agent_ranges.py::test_by_ranges_children_are_found_whether_they_exec_or_not",
    "test_agent_ranges.py::test_by_ranges_an_agent_that_is_killed_leaves_nothing_behind",
    "test_node_command.py::test_enrol_status_release",
    "test_node_command.py::test_what_was_marked_is_given_back_exactly_by_a_later_call",
    "test_node_command.py::test_children_give_back_what_they_have_from_their_parent",
)
"""What the agent and `ksm-node` do where there is no prctl."""

AGENT_BY_PRCTL = (
    "test_agent_enrolment.py::test_a_child_of_a_process_that_ended_after_the_call_is_ours",
    "test_agent_enrolment.py::test_one_that_lost_merging_by_its_exec_is_enrolled_again",
    "test_agent_enrolment.py::test_what_asked_for_merging_before_us_is_its_own",
    "test_agent_enrolment.py::test_a_container_in_which_nobody_may_merge_leaves_no_record",
    "test_agent_enrolment.py::test_a_release_that_is_put_off_half_way_goes_on",
    "test_agent_enrolment.py::test_one_that_locks_its_memory_later_is_let_go",
    "test_agent_killed.py",
    "test_agent_ranges.py::test_an_agent_that_is_killed_while_it_releases_brings_own_marks_back",
    "test_agent_ranges.py::test_what_a_program_marked_itself_comes_back_after_the_prctl",
)
"""What the agent does where there is one; by ranges it does the same on every kernel."""

MADVISE_AND_PRCTL = (
    "test_madvise.py::test_populated_memory_is_marked_and_really_merged",
    "test_madvise.py::test_giving_back_waits_for_room",
    "test_madvise.py::test_own_marks_survive_an_enrolment_by_prctl",
    "test_madvise.py::test_marks_made_after_the_record_hold_the_prctl_up",
    "test_madvise.py::test_one_that_merges_everything_is_told_from_one_with_marks",
)
"""How the two ways get on with each other, and the part of ranges that cgroups have a say in."""

FOREIGN = (
    "test_agent_isolation.py::test_who_asks_is_noticed",
    "test_agent_isolation.py::test_what_a_killed_agent_left_is_taken_over",
    "test_writers.py",
)
"""Others who merge, or write to ksmd's files: where the kernel does not say who is mergeable."""

EXECS = ("test_agent_execs.py", "test_exec_watch.py")
"""Who joins a container, which on version 2 no file of a cgroup shows."""

PAYERS = ("test_agent_phantom.py", "test_payers.py")
"""Who pays: where the kernel's own mark of merged pages cannot be believed."""

GUARDED = (
    "test_agent_debt.py",
    "test_agent_enrolment.py::test_a_container_at_its_limit_waits_for_room",
    "test_agent_guard.py::test_a_payer_refills_again_and_again",
    "test_agent_guard.py::test_while_it_is_paused_a_payers_container_restarts",
)
"""What keeps a pod alive by itself: an agent at work; and on a node that fills up."""

LIMITS = (
    "test_guard.py::test_without_it_a_refill_kills_the_payer",
    "test_guard.py::test_a_sharer_gives_no_more_than_it_has_room_for",
    "test_guard.py::test_nothing_is_broken_where_there_is_room",
    "test_guard.py::test_what_was_given_back_stays_apart_until_the_release",
    "test_guard.py::test_without_it_a_restarted_container_is_killed",
    "test_release_order.py::test_a_payer_alone_is_left_whole",
    "test_release_order.py::test_sharers_go_before_payers",
    "test_release_order.py::test_the_payer_first_is_killed",
)
"""What would kill a pod without us, and what keeps it alive, with the files of version 2.

A guest's files are in memory, so no page cache of it is clean: those tests need a disk.
"""

NODE_COMMAND = (
    "test_node_command.py::test_enrol_status_release",
    "test_node_command.py::test_explain_before_and_after",
    "test_node_command.py::test_relieve_a_cgroup_that_pays_for_others",
)
"""`ksm-node` on a machine with cgroups of version 2."""


def goes_on(*calls: str) -> tuple[str, ...]:
    """A visit while the target waits in these."""
    return tuple(f"test_remote.py::test_call_ends_as_if_nothing_had_been[{call}]" for call in calls)


RELEASED_AT_A_LIMIT = (
    "test_release.py::test_a_cgroup_without_room_is_not_killed[as_probed]",
    "test_release.py::test_sparse_reservation_is_released_in_steps[as_probed]",
)
"""What of a release takes an emulated machine longest: once on each kind of machine."""

PRCTL = (
    *AGENT_BY_PRCTL,
    "test_release.py::test_pages_merge_and_come_back[as_probed]",
    "test_release.py::test_release_of_one_that_never_merged[as_probed]",
    "test_release.py::test_no_headroom_touches_nothing[as_probed]",
    "test_release.py::test_process_that_exits_is_gone[as_probed]",
    *goes_on("epoll_pwait", "futex", "nanosleep", "read"),
)
"""Enrolling and releasing with PR_SET_MEMORY_MERGE: Linux 6.4."""

GOES_ON_ON_X86_64 = goes_on(
    *("epoll_wait", "epoll_pwait2", "poll", "select", "clock_nanosleep", "recv_timeout", "accept"),
    *("wait4", "rt_sigtimedwait", "pause", "semop", "msgrcv", "mq_timedreceive", "fcntl", "openat"),
    *("io_getevents", "io_uring_enter"),
)
"""One more of each kind. The host runs all of them; so does an aarch64 kernel, with other rules."""

REMOTE = (
    "test_remote.py",
    "test_signals.py",
    "test_dead_man.py::test_user_code_keeps_every_register",
    "test_dead_man.py::test_several_calls_in_one_visit",
    "test_dead_man.py::test_the_target_makes_our_call_by_itself",
    "test_dead_man.py::test_stack_of_a_runtime_is_not_written_to",
    "test_dead_man.py::test_sleep_on_a_stack_of_a_runtime_is_used_without_a_frame",
    "test_dead_man.py::test_sleep_on_a_stack_of_a_runtime_ends_early_at_worst",
)
"""All that a visit may not do to its target, of which a machine's registers are the half."""


def killed_in(*calls: str) -> tuple[str, ...]:
    """The visitor killed after each of its requests, while the target waits in these."""
    test = "test_dead_man.py::test_call_ends_as_if_nobody_had_died"
    return tuple(f"{test}[{call}]" for call in calls)


# A kernel that stops for one kind of call stops for its kin, so each machine has one of each kind;
# what ends in the same place of the kernel as another one (a mutex, an eventfd) is left out.
KILLED_ON_6_12 = killed_in(
    *("epoll_pwait", "ppoll", "pselect6", "futex", "futex_pi", "nanosleep", "read", "recv_timeout"),
    *("accept", "wait4", "rt_sigsuspend", "semtimedop", "msgsnd", "flock", "openat"),
    *("io_getevents", "io_uring_enter"),
)
KILLED_ON_7 = killed_in(
    *("epoll_pwait2", "epoll_pwait_endless", "ppoll_endless", "futex_absolute", "futex_endless"),
    *("futex_waitv", "clock_nanosleep_relative", "readv", "accept_timeout", "connect", "waitid"),
    *("rt_sigtimedwait", "semop", "msgrcv", "mq_timedreceive", "fcntl", "io_getevents_endless"),
    "io_uring_enter_endless",
)

ENROLLED_AND_RELEASED = (
    "test_enrol.py::test_children_inherit",
    "test_enrol.py::test_locked_memory_is_refused",
    "test_enrol.py::test_madvise_of_its_own_is_left_alone",
    "test_enrol.py::test_other_languages_and_shells",
    "test_release.py::test_pages_merge_and_come_back[as_probed]",
    "test_release.py::test_release_of_one_that_never_merged[as_probed]",
    "test_release.py::test_no_headroom_touches_nothing[as_probed]",
)
"""What of enrolment and release could depend on the size of a page or on the machine."""

MERGED_PAGES = (
    "test_merged_pages.py::test_which_pages_are_merged",
    "test_merged_pages.py::test_pages_that_nobody_else_maps_any_more",
)
"""Where the steps of a release are cut."""

HUGE_PAGES = (
    "test_huge_pages.py::test_two_percent_shared_are_left_alone",
    "test_huge_pages.py::test_half_shared_is_worth_it",
)
"""Where every program gets huge pages: Debian's kernels say `always`."""

RUNC = ("test_runc.py", "test_runtime_init.py")
"""The same in containers, with a limit and without prctl among their calls, and from the first
instruction of their programs on, whether runc or crun makes them; x86-64."""

SUBSETS: dict[str, tuple[str, ...]] = {
    "7": (
        *(*ANYWHERE, *FANOTIFY, *EXECS, *LIMITS, *GUARDED, *PRCTL, *RUNC, *NODE_COMMAND),
        *(*DUPLICATES_AND_MERGED, *GOES_ON_ON_X86_64, *RELEASED_AT_A_LIMIT, *LIMIT),
        "test_merged_pages.py::test_which_pages_are_merged",
        "test_enrol.py",
        "test_frozen.py",
    ),
    "6.12": (
        *(*ANYWHERE, *FANOTIFY, *EXECS, *PAYERS, *PRCTL, *ENROLLED_AND_RELEASED),
        *(*HUGE_PAGES, *RUNC, *MADVISE_AND_PRCTL, *MERGED_PAGES, *FOREIGN, *LIMIT),
        "test_duplicates.py",
    ),
    "aarch64-7": ("test_frozen.py", *REMOTE, *KILLED_ON_7),
    "aarch64-6.12": (
        *(*ANYWHERE, *CANNOT, *FANOTIFY, *DUPLICATES_AND_MERGED, *ENROLLED_AND_RELEASED),
        *KILLED_ON_6_12,
    ),
    "6.1": (
        *(*ANYWHERE, *CANNOT, *DUPLICATES, *MADVISE, *AGENT_BY_RANGES, *LIMIT),
        "test_guard_by_ranges.py",
    ),
    "aarch64-16k": (
        "test_probe.py::test_feature",
        "test_probe.py::test_method",
        "test_probe.py::test_headroom_of_a_limited_cgroup",
        *(*CANNOT, *ENROLLED_AND_RELEASED, *RELEASED_AT_A_LIMIT),
        "test_merged_pages.py::test_which_pages_are_merged",
    ),
}
"""In the order of what they take, the longest first."""

X86_64_ONLY = tuple(
    f"test_remote.py::test_call_ends_as_if_nothing_had_been[{case}]"
    for case in (
        *("epoll_wait", "epoll_wait_endless", "poll", "poll_endless"),
        *("select", "select_endless", "pause"),
    )
)
"""Calls that aarch64 never had: the host's pytest names them, the guest's does not."""


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
    if kernel.startswith("aarch64"):
        wanted -= {f"{HERE}/{line}" for line in X86_64_ONLY}
    return [name for name in found if name in wanted]
