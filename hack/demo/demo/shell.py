"""Running commands as a person would type them, and showing them."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do."""


def say(text: str = "") -> None:
    """A line for the person who watches."""
    print(text, flush=True)


def step(title: str) -> None:
    """The title of what comes next."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    say(f"\n{bold}=== {title}{plain}")


@dataclass(frozen=True)
class Shell:
    """Commands in the repository's folder.

    Attributes:
        environment: their variables, KUBECONFIG and PATH among them.
    """

    environment: Mapping[str, str]

    def show(self, *command: str, timeout: float = 600) -> None:
        """Print the command, run it, and let it print.

        Raises:
            DemoError: it failed.
        """
        say(f"$ {shlex.join(command)}")
        try:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                cwd=REPOSITORY,
                timeout=timeout,
                check=False,
            ).returncode
        except FileNotFoundError:
            raise DemoError(f"{command[0]} is not on PATH: install it") from None
        except subprocess.TimeoutExpired:
            raise DemoError(f"`{shlex.join(command)}` did not end within {timeout:.0f} s") from None
        if code != 0:
            raise DemoError(f"`{shlex.join(command)}` failed with exit code {code}")

    def read(
        self,
        *command: str,
        stdin: str | None = None,
        timeout: float = 600,
    ) -> str:
        """Run the command and return what it prints.

        Raises:
            DemoError: it failed; the message has what it said.
        """
        try:
            done = subprocess.run(
                command,
                input="" if stdin is None else stdin,
                capture_output=True,
                text=True,
                env=self.environment,
                cwd=REPOSITORY,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError:
            raise DemoError(f"{command[0]} is not on PATH: install it") from None
        except subprocess.TimeoutExpired:
            raise DemoError(f"`{shlex.join(command)}` did not end within {timeout:.0f} s") from None
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise DemoError(f"`{shlex.join(command)}` failed:\n{said}")
        return done.stdout

    def objects(self, *arguments: str) -> list[dict[str, Any]]:
        """The list that `kubectl get ... -o json` gives."""
        items: list[dict[str, Any]] = json.loads(
            self.read("kubectl", "get", *arguments, "-o", "json")
        )["items"]
        return items

    def exists(self, *arguments: str) -> bool:
        """Whether `kubectl get` finds the object."""
        found = self.read("kubectl", "get", *arguments, "--ignore-not-found", "-o", "name")
        return bool(found.strip())
