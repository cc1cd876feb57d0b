"""A plugin for pytest in a guest: says how each test ended, in a line of its own."""

import json
import os

import pytest

MARK = "@@result "
# A copy, made before pytest captures what tests print.
_OUTPUT = os.dup(1)


class Reporter:
    """Puts the three phases of a test together."""

    def __init__(self) -> None:
        self._phases: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Say it when the last phase has ended."""
        self._phases.append(report)
        if report.when == "teardown":
            line = MARK + json.dumps(summary(self._phases))
            self._phases = []
            # One write: nothing else of this machine comes in between.
            os.write(_OUTPUT, f"\n{line}\n".encode())


def summary(phases: list[pytest.TestReport]) -> dict[str, object]:
    """How a test ended; the worst phase counts."""
    worst = max(phases, key=lambda phase: ("passed", "skipped", "failed").index(phase.outcome))
    return {
        "name": worst.nodeid,
        "outcome": worst.outcome,
        "seconds": round(sum(phase.duration for phase in phases), 3),
        "text": "" if worst.passed else _text(worst),
    }


def _text(phase: pytest.TestReport) -> str:
    parts = [phase.longreprtext]
    if isinstance(phase.longrepr, tuple):
        parts = [phase.longrepr[2]]
    parts += [f"--- {title} ---\n{content}" for title, content in phase.sections]
    return "\n".join(parts)


def pytest_configure(config: pytest.Config) -> None:
    """Listen to this run's reports."""
    config.pluginmanager.register(Reporter(), "vm-reporter")
