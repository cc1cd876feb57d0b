"""Undo the demo, in the order that a person would."""

import json
import os

from demo.names import (
    CRDS,
    DEMO_LABEL,
    NAMESPACE,
    OTHER,
    POLICY,
    RELEASE,
    RELEASE_LABEL,
    WEB,
)
from demo.setup import Settings, local_shell
from demo.shell import DemoError, Shell, say, step


def run(settings: Settings) -> None:
    """Policy, workload, operator, and the local cluster if it is that one."""
    here = Shell(dict(os.environ))
    if not settings.local:
        undo(here)
    else:
        try:
            undo(local_shell())
        except DemoError as error:
            say(f"The cluster does not answer, it goes down as it is: {error}")
        step("The cluster goes down")
        here.show("make", "-s", "cluster-down")
    say("\nNothing of the demo is left.")


def undo(shell: Shell) -> None:
    """Take away what the demo put into the cluster, and nothing else."""
    ours = is_demo_namespace(shell, WEB)
    if ours and shell.exists("crd", CRDS[0]) and shell.exists("ksmpolicy", POLICY):
        step("The policy: every process gets its own pages back, step by step")
        shell.show("kubectl", "delete", "ksmpolicy", POLICY, "--timeout=11m", timeout=700)
    if ours or is_demo_namespace(shell, OTHER):
        step("The workload")
        names = [name for name in (WEB, OTHER) if is_demo_namespace(shell, name)]
        shell.show("kubectl", "delete", "namespace", *names, "--timeout=3m")
    if is_demo_release(shell):
        step("The operator")
        shell.show(
            *("helm", "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "5m")
        )
        shell.show("kubectl", "delete", "crd", *CRDS, "--ignore-not-found", "--timeout=2m")
    if is_demo_namespace(shell, NAMESPACE):
        shell.show("kubectl", "delete", "namespace", NAMESPACE, "--timeout=3m")


def is_demo_namespace(shell: Shell, name: str) -> bool:
    """Whether the demo made this namespace."""
    text = shell.read("kubectl", "get", "namespace", name, "--ignore-not-found", "-o", "json")
    return bool(text.strip()) and DEMO_LABEL in json.loads(text)["metadata"].get("labels", {})


def is_installed(shell: Shell, *labels: str) -> bool:
    """Whether there is a Helm release of the operator, with all of these labels."""
    # Helm keeps releases in Secrets; `helm list` has other flags in every major version.
    selector = ",".join(("owner=helm", f"name={RELEASE}", *labels))
    return bool(shell.objects("secrets", "-n", NAMESPACE, "-l", selector))


def is_demo_release(shell: Shell) -> bool:
    """Whether the demo installed the operator."""
    return is_installed(shell, RELEASE_LABEL)
