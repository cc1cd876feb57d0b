"""The command line of ksm-node, and what it prints for a person."""

import pytest

from ksm_operator.node.__main__ import main
from ksm_operator.node.status import render_status

STATUS = {
    "kernel": {
        "release": "6.18.0",
        "machine": "x86_64",
        "method": "Prctl",
        "unsupported": None,
    },
    "ksmd": {"run": 1, "pages_to_scan": 100, "sleep_millisecs": 20, "full_scans": 7},
    "ksmdPid": 37,
    "ksmdCpuSeconds": 1.5,
    "savedBytes": 3 << 20,
    "profitBytes": -(1 << 20),
    "processes": [],
}


def test_status_for_a_person() -> None:
    """The figures that a person asks for, and a loss shown as one."""
    text = render_status(STATUS)
    assert "6.18.0 x86_64, enrols by Prctl" in text
    assert "scanning, 100 pages every 20 ms, advisor none, 7 full scans" in text
    assert "3.0 MiB, -1.0 MiB after" in text
    assert "0 processes" in text


def test_status_of_a_machine_that_cannot() -> None:
    """The sentence that says why is shown; unknown figures are not made up."""
    kernel = {**STATUS["kernel"], "method": None, "unsupported": "Too old."}  # type: ignore[dict-item]
    text = render_status({**STATUS, "kernel": kernel, "ksmdCpuSeconds": None, "profitBytes": None})
    assert "Too old." in text
    assert "CPU unknown" in text


def test_processes_are_listed() -> None:
    """One line each, and a warning that the column must not be added up."""
    process = {
        "pid": 812,
        "name": "python3",
        "cgroup": "/kubepods/x",
        "byPrctl": True,
        "mergedBytes": 5 << 20,
        "profitBytes": None,
    }
    text = render_status({**STATUS, "processes": [process]})
    assert "812" in text
    assert "/kubepods/x" in text
    assert "adds up to more" in text


@pytest.mark.parametrize(
    "words", [[], ["enrol"], ["enrol", "x"], ["enrol", "0"], ["undo", "1"], ["relieve"]]
)
def test_bad_command_lines(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Argparse answers with its usage and status 2."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: ksm-node" in capsys.readouterr().err


def test_refuses_without_root(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is read."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["status"]) == 2
    assert "root is needed" in capsys.readouterr().err
