"""Running kubectl, helm and make as a person would, and waiting for what they bring about."""

import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.2

T = TypeVar("T")


@dataclass(frozen=True)
class Command:
    """One program with the cluster's environment.

    Attributes:
        program: what is run, for example kubectl.
        environment: variables, KUBECONFIG among them.
    """

    program: str
    environment: dict[str, str] = field(repr=False)

    def __call__(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - subprocess.run's own name
        check: bool = True,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end.

        Args:
            arguments: as typed in a shell.
            input: standard input.
            check: fail the test, with what the program said, when it exits with an error.
            timeout: seconds until it is killed and the test fails.
        """
        __tracebackhide__ = True
        command = [self.program, *arguments]
        done = subprocess.run(
            command,
            input="" if input is None else input,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=self.environment,
            cwd=REPOSITORY,
        )
        assert not check or done.returncode == 0, (
            f"`{shlex.join(command)}` failed with {done.returncode}:\n{done.stderr}{done.stdout}"
        )
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it and do not wait; the caller ends it."""
        return subprocess.Popen(
            [self.program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self.environment,
            cwd=REPOSITORY,
        )


class Kubectl(Command):
    """kubectl, with its objects as values."""

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object, or a list of them."""
        answer: dict[str, Any] = json.loads(self("get", *arguments, "-o", "json").stdout)
        return answer

    def find(self, *arguments: str) -> dict[str, Any] | None:
        """An object, or None where there is none."""
        text = self("get", *arguments, "-o", "json", "--ignore-not-found").stdout
        return json.loads(text) if text.strip() else None

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        items: list[dict[str, Any]] = self.get(*arguments)["items"]
        return items

    def get_config(self) -> dict[str, Any]:
        """Where the cluster is: ``server`` and ``certificate-authority-data``."""
        shown = self("config", "view", "--raw", "--minify", "--flatten", "-o", "json").stdout
        cluster: dict[str, Any] = json.loads(shown)["clusters"][0]["cluster"]
        return cluster

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects, as `kubectl apply -f` does with a user's file."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("apply", "-f", "-", input=json.dumps(listed))

    def patch(self, kind: str, name: str, patch: dict[str, Any], *arguments: str) -> None:
        """Merge a patch into an object."""
        self("patch", kind, name, "--type=merge", f"--patch={json.dumps(patch)}", *arguments)


def make(target: str, timeout: float) -> None:
    """Run make; fail with all it said."""
    Command("make", dict(os.environ))("-s", target, timeout=timeout)


def make_visibly(target: str, config: pytest.Config) -> None:
    """Run make where a person sees its progress: a first build takes a quarter of an hour."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        print(f"\nmake {target} ...", flush=True)
        done = subprocess.run(["make", "-s", target], cwd=REPOSITORY, check=False)
    assert done.returncode == 0, f"`make {target}` failed; it said why above"


def wait_until(
    predicate: Callable[[], T], timeout: float, describe: str, *, poll: float = POLL_SECONDS
) -> T:
    """Ask until the answer is true, and return it.

    Args:
        predicate: asked again and again; a failed assertion or a missing key counts as no.
        timeout: seconds.
        describe: what is waited for, for the message.
        poll: seconds between two questions.
    """
    __tracebackhide__ = True
    deadline = time.monotonic() + timeout
    while True:
        answer, why = _ask(predicate)
        if answer:
            return answer
        assert time.monotonic() < deadline, f"after {timeout:g} s still not: {describe}{why}"
        time.sleep(poll)


def _ask(predicate: Callable[[], T]) -> tuple[T | None, str]:
    try:
        answer = predicate()
    except (AssertionError, LookupError) as error:
        return None, f"\n({error!r})"
    return answer, f"\n(last answer: {answer!r})"


def holds_for(predicate: Callable[[], bool], seconds: float, describe: str) -> None:
    """Assert that something stays true for some time."""
    __tracebackhide__ = True
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert predicate(), f"did not stay so: {describe}"
        time.sleep(POLL_SECONDS)


def condition(thing: dict[str, Any] | None, kind: str) -> dict[str, Any]:
    """One condition of an object's status; empty where there is none."""
    conditions: Iterable[dict[str, Any]] = ((thing or {}).get("status") or {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})
