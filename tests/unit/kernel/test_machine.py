"""Which machines calls can be made on."""

import pytest

from ksm_operator.kernel.errors import Unsupported
from ksm_operator.kernel.machine import MACHINES, this_machine


@pytest.mark.parametrize("name", ["riscv64", "i686", "s390x"])
def test_unknown_machines_are_said_to_be_so(name: str) -> None:
    """Registers of another machine would be torn apart, so nothing is touched."""
    with pytest.raises(Unsupported, match=name):
        this_machine(name)


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_known_machines_know_the_calls_that_we_make(name: str) -> None:
    """Enrolment and release rest on these two."""
    assert {"prctl", "madvise"} <= set(this_machine(name).names.values())
