"""What is left of a transfer: told from registers, so that nothing is sent twice or left out."""

from pathlib import Path

import pytest

from ksm_operator.kernel.x86_64 import ARGUMENTS, NUMBERS, Registers, unsigned
from ksm_operator.kernel.x86_64_transfer import Rest, rest_of_transfer

BUFFER, SIZE, DONE = 0x7000, 1000, 300
WAITALL = 0x100


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """As /proc/TID/fd is: 3 is a pipe, 4 a socket, 5 a file."""
    for number, target in ((3, "pipe:[77]"), (4, "socket:[78]"), (5, "/var/log/words")):
        (tmp_path / str(number)).symlink_to(target)
    return tmp_path


def stopped(name: str, result: int, *arguments: int) -> Registers:
    """A thread at the end of a call."""
    registers = Registers(rax=unsigned(result), orig_rax=NUMBERS[name])
    for register, value in zip(ARGUMENTS, arguments, strict=False):
        setattr(registers, register, value)
    return registers


@pytest.mark.parametrize(
    ("name", "given", "left"),
    [
        ("write", (3, BUFFER, SIZE), (3, BUFFER + DONE, SIZE - DONE, 0, 0, 0)),
        ("write", (4, BUFFER, SIZE), (4, BUFFER + DONE, SIZE - DONE, 0, 0, 0)),
        ("sendto", (4, BUFFER, SIZE, 0x4000), (4, BUFFER + DONE, SIZE - DONE, 0x4000, 0, 0)),
        ("recvfrom", (4, BUFFER, SIZE, WAITALL), (4, BUFFER + DONE, SIZE - DONE, WAITALL, 0, 0)),
        ("sendfile", (4, 5, 0, SIZE), (4, 5, 0, SIZE - DONE, 0, 0)),
    ],
)
def test_the_rest_goes_on_where_it_ended(
    files: Path, name: str, given: tuple[int, ...], left: tuple[int, ...]
) -> None:
    """Each kind of call has its own way to say where to go on."""
    expected = Rest(NUMBERS[name], left, DONE, SIZE)
    assert rest_of_transfer(stopped(name, DONE, *given), files) == expected


@pytest.mark.parametrize(
    ("name", "result", "given"),
    [
        ("write", SIZE, (3, BUFFER, SIZE)),  # all of it
        ("write", 0, (3, BUFFER, SIZE)),
        ("write", -32, (3, BUFFER, SIZE)),  # EPIPE
        ("write", DONE, (5, BUFFER, SIZE)),  # a disk that is full
        ("write", DONE, (6, BUFFER, SIZE)),  # closed meanwhile
        ("read", DONE, (3, BUFFER, SIZE)),  # as much as there was
        ("recvfrom", DONE, (4, BUFFER, SIZE, 0)),
        ("writev", DONE, (3, BUFFER, SIZE)),
        ("sendfile", DONE, (4, 5, 0, DONE)),
    ],
)
def test_other_results_are_left_as_they_are(
    files: Path, name: str, result: int, given: tuple[int, ...]
) -> None:
    """What is whole, failed, or short for a reason of its own is the program's business."""
    assert rest_of_transfer(stopped(name, result, *given), files) is None


def test_user_code_is_in_no_transfer(files: Path) -> None:
    """Registers of a thread that computes look like anything."""
    registers = stopped("write", DONE, 3, BUFFER, SIZE)
    registers.orig_rax = unsigned(-1)
    assert rest_of_transfer(registers, files) is None
