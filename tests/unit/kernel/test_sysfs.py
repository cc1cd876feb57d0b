"""ksmd's files: typed reading, and no value that could do harm gets through."""

import os
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import (
    KernelError,
    KsmSysfs,
    KsmValues,
    SysfsError,
    SysfsInvalid,
    SysfsReadOnly,
    Unsupported,
    find_writable_root,
)
from ksm_operator.kernel.sysfs import check_value, parse_advisor_mode
from ksm_operator.kernel.sysfs_files import FILES, WRITABLE


def tree(root: Path, **files: str) -> KsmSysfs:
    """A directory with these files."""
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        (root / name).write_text(text)
    return KsmSysfs(root)


def test_values_are_typed_and_missing_files_are_none(tmp_path: Path) -> None:
    """An older kernel has fewer files; profit may be negative."""
    sysfs = tree(tmp_path, run="1\n", general_profit="-4096\n", advisor_mode="none [scan-time]\n")
    values = sysfs.read()
    assert values.run == 1
    assert values.general_profit == -4096
    assert values.advisor_mode == "scan-time"
    assert values.smart_scan is None
    assert values.get("run") == 1


@pytest.mark.parametrize(("shown", "written"), [("4", 0), ("5", 1), ("6", 2)])
def test_memory_that_goes_offline_is_no_write_to_run(
    shown: str, written: int, tmp_path: Path
) -> None:
    """The kernel adds a bit meanwhile, which nobody wrote: ksmd's owner has not changed."""
    assert tree(tmp_path, run=f"{shown}\n").read().run == written


def test_saved_bytes_count_zero_pages() -> None:
    """Pages of zeroes that were merged are saved memory too; the page that is kept is not."""
    values = KsmValues(pages_shared=5, pages_sharing=30, ksm_zero_pages=2)
    assert values.saved_bytes(4096) == 32 * 4096
    assert KsmValues().saved_bytes(4096) == 0


def test_no_ksm_is_told_from_an_unreadable_file(tmp_path: Path) -> None:
    """One means that the node cannot merge, the other that somebody should look."""
    with pytest.raises(Unsupported):
        KsmSysfs(tmp_path / "nonexistent").read()
    (tmp_path / "run").mkdir()
    with pytest.raises(SysfsError, match="run: cannot be read"):
        KsmSysfs(tmp_path).read()


def test_every_file_is_in_the_table_and_in_the_values() -> None:
    """What is read and what is known of it are the same files."""
    assert {field.name for field in fields(KsmValues)} == set(FILES)
    assert all(file.unit and file.since for file in FILES.values())


@given(st.sampled_from(sorted(FILES)), st.text())
def test_any_text_is_a_value_or_a_named_error(name: str, text: str) -> None:
    """Nothing that a file holds makes reading fail in another way."""
    with TemporaryDirectory() as directory:
        (Path(directory) / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            value = KsmSysfs(Path(directory)).read().get(name)
        except SysfsError as error:
            assert name in str(error)  # noqa: PT017 - either answer is right
        else:
            assert isinstance(value, str if name == "advisor_mode" else int)


def test_unmerging_everybody_is_never_written(tmp_path: Path) -> None:
    """run=2 would take other people's merged pages and can kill: there is no way to write it."""
    sysfs = tree(tmp_path, run="0\n")
    with pytest.raises(SysfsInvalid):
        sysfs.write("run", 2)
    assert (tmp_path / "run").read_text() == "0\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", 3),
        ("run", -1),
        ("run", "1"),
        ("run", True),
        ("max_page_sharing", 1),
        ("pages_to_scan", 2**32),
        ("advisor_mode", "fast"),
        ("advisor_max_cpu", 101),
        ("full_scans", 0),
        ("../../vm/drop_caches", 3),
    ],
)
def test_bad_values_are_refused(name: str, value: int | str, tmp_path: Path) -> None:
    """Names and values may come from a cluster: none becomes a path or a value unchecked."""
    with pytest.raises(SysfsInvalid):
        KsmSysfs(tmp_path).write(name, value)


@given(st.sampled_from(sorted(WRITABLE)), st.integers())
def test_range_is_what_the_table_says(name: str, value: int) -> None:
    """The table is the rule, whatever the number."""
    low, high = WRITABLE[name]
    if low <= value <= high:
        check_value(Path(name), name, value)
    else:
        with pytest.raises(SysfsInvalid):
            check_value(Path(name), name, value)


@given(st.text())
def test_advisor_mode_parses_or_says_so(text: str) -> None:
    """No text makes the parser fail in another way."""
    try:
        assert parse_advisor_mode(text) in text
    except KernelError as error:
        assert "bracket" in str(error)  # noqa: PT017 - either answer is right


def test_writable_root_says_what_was_tried(tmp_path: Path) -> None:
    """The first that can be written is taken; else the message is for a person to act on."""
    first, second = tmp_path / "one", tmp_path / "two"
    with pytest.raises(Unsupported, match=r"one.*two"):
        find_writable_root((first, second))
    tree(second, run="0\n")
    if os.geteuid() == 0:
        assert find_writable_root((first, second)) == second
    else:
        (second / "run").chmod(0o444)
        with pytest.raises(SysfsReadOnly, match="tried"):
            find_writable_root((first, second))
