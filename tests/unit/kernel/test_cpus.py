"""CPUs of threads, as the kernel writes them."""

import pytest

from ksm_operator.kernel.cpus import format_cpus


@pytest.mark.parametrize(
    ("cpus", "text"),
    [((), ""), ((3,), "3"), ((0, 1), "0-1"), ((5, 0, 1, 2, 7, 8), "0-2,5,7-8")],
)
def test_cpus_are_written_as_the_kernel_does(cpus: tuple[int, ...], text: str) -> None:
    """People compare it with what `taskset -c` and cpuset.cpus say."""
    assert format_cpus(cpus) == text
