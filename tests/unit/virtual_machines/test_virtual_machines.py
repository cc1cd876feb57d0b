"""What can be known of a machine without booting one."""

import io
import sys
from pathlib import Path

import pytest

from local_cluster.errors import LocalClusterError
from virtual_machines import images, machine, payload
from virtual_machines.cpio import Archive
from virtual_machines.debian import Mirrors, parse_mirrors
from virtual_machines.machines import KERNELS
from vm.subset import HERE, SUBSETS, chosen

OWN = "'http://mirror.example/debian/dists/trixie/InRelease' mirror.example_trixie 0"
SECURE = "'http://safe.example/debian-security/dists/trixie-security/InRelease' safe.example 0"
OTHER = "'https://packages.example/cloud-sdk/dists/trixie/InRelease' packages.example 0"
BESIDE = "http://mirror.example/debian-security"


@pytest.mark.parametrize(
    ("lines", "security"),
    [
        ((OWN, SECURE), "http://safe.example/debian-security"),
        ((OTHER, SECURE, OWN), "http://safe.example/debian-security"),
        ((OWN,), BESIDE),
        ((OTHER, OWN), BESIDE),
    ],
)
def test_packages_come_from_the_machines_own_mirror(lines: tuple[str, ...], security: str) -> None:
    """Where a company has a mirror of its own, others are often out of reach."""
    assert parse_mirrors("\n".join(lines)) == Mirrors("http://mirror.example/debian", security)


@pytest.mark.parametrize("text", ["", OTHER, SECURE])
def test_a_machine_without_debian_is_told_so(text: str) -> None:
    """A host of our choice would be a surprise, and on another distribution there may be none."""
    with pytest.raises(LocalClusterError, match=r"sources\.list"):
        parse_mirrors(text)


def test_suites_have_their_mirror() -> None:
    """Security updates live on another one."""
    mirrors = Mirrors("main", "security")
    assert [mirrors.of(suite) for suite in ("sid", "trixie-security")] == ["main", "security"]


def entries(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name, read as initramfs(5) describes the format."""
    found = {}
    at = 0
    while at < len(data):
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        assert data[at : at + 6] == b"070701"
        mode, size, length = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        at += -(-(110 + length) // 4) * 4
        found[name] = (mode, data[at : at + size])
        at += -(-size // 4) * 4
    return found


def test_archive_is_what_the_kernel_reads(tmp_path: Path) -> None:
    """The kernel says nothing of an archive that it cannot read to its end."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/program").write_bytes(b"odd")
    (tmp_path / "usr/bin/program").chmod(0o755)
    (tmp_path / "bin").symlink_to("usr/bin")
    buffer = io.BytesIO()
    archive = Archive(buffer)
    archive.console()
    archive.tree(tmp_path)
    archive.file("a/b/c", b"deep")
    archive.close()
    found = entries(buffer.getvalue())
    assert found["usr/bin/program"] == (0o100755, b"odd")
    assert found["bin"] == (0o120777, b"usr/bin")
    assert found["dev/console"] == (0o020600, b"")
    assert found["a/b/c"] == (0o100644, b"deep")
    assert list(found).index("a/b") < list(found).index("a/b/c")
    assert list(found)[-1] == "TRAILER!!!"


def test_a_kernel_is_kept_by_what_it_is_made_of() -> None:
    """Two recipes must never share a folder."""
    folders = {images.kernel_folder(kernel) for kernel in KERNELS.values()}
    assert len(folders) == len(KERNELS)
    assert len({images.root_folder(kernel.architecture) for kernel in KERNELS.values()}) == 2


def console(*lines: str) -> machine.Outcome:
    """How a run ends whose emulator prints this."""
    text = "".join(f"{line}\r\n" for line in lines)
    script = f"import sys; sys.stdout.write({text!r})"
    return machine._boot([sys.executable, "-c", script], lambda _: None, 30)


def test_the_exit_line_is_the_exit_code() -> None:
    """The emulator's own exit code says nothing: a panic ends it with 0."""
    done = console("@@start 6.1", "hello", "@@exit 5")
    assert (done.code, done.started) == (5, True)


def test_an_end_without_it_is_no_success() -> None:
    """A crash must never pass, and its last words are for a person to read."""
    died = console("@@start 6.1", "Kernel panic - not syncing")
    assert (died.code, died.started) == (None, True)
    assert "while its command ran" in died.why
    assert died.console.endswith("Kernel panic - not syncing")
    assert not console("Kernel panic").started
    assert console("@@start 6.1", "@@exit fi").code is None


def test_only_what_has_not_begun_is_booted_again() -> None:
    """A retry must not hide a failure, nor happen unseen."""
    early = machine.Outcome(None, started=False, why="it ended", console="Oops")
    late = machine.Outcome(None, started=True, why="it ended", console="")
    fine = machine.Outcome(0, started=True, why="", console="")
    for ends, said in (([early, fine], 1), ([late, fine], 0), ([early, early], 1)):
        words: list[str] = []
        left = iter(ends)
        outcome = machine.attempts(left.__next__, words.append)
        assert outcome == (ends[1] if said else ends[0])
        assert len(words) == said


def test_one_that_hangs_is_switched_off() -> None:
    """An emulator that says nothing must not hold up a run for ever."""
    hung = machine._boot([sys.executable, "-c", "while True: pass"], print, 0.1)
    assert hung.code is None
    assert "not done within" in hung.why


def test_the_tree_with_new_files_is_shipped() -> None:
    """What runs in a machine is what is being worked on, not what was committed."""
    files = payload.tree_files()
    assert Path("pyproject.toml") in files
    assert Path("tests/unit/virtual_machines/test_virtual_machines.py") in files
    assert not any(".venv" in file.parts for file in files)


def test_a_share_is_files_tests_and_cases() -> None:
    """A line of the table means all that is below its name, and nothing beside it."""
    share = [f"{HERE}/{line}" for line in SUBSETS["6.12"]]
    tests = [name for name in share if "::" in name]
    beside = [f"{name}_other" for name in tests]
    cases = [f"{name}[case]" for name in tests if not name.endswith("]")]
    found = chosen([*share, *beside, *cases], "6.12")
    assert found == [*share, *cases]
    with pytest.raises(LookupError, match="there is no test"):
        chosen([], "6.12")


def test_every_share_is_of_a_kernel_that_there_is() -> None:
    """A kernel that is renamed must not fall out of the tier."""
    assert set(SUBSETS) <= set(KERNELS)
