"""What is measured, one thing after the other, on one cluster."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.controller import audit, control_plane, cpu, population, report
from benchmarks.controller.control_plane import kubectl
from benchmarks.controller.observer import wait_until
from benchmarks.controller.report import Figure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.controller.audit import Audit, Request
    from benchmarks.controller.churn import Churn
    from benchmarks.controller.observer import Observer
    from benchmarks.controller.population import Scale
    from benchmarks.controller.process import Controller

APPLY_SECONDS: Final = 60.0
WRITES_PER_SECOND: Final = 10.0
MEMORY_MIB: Final = 250.0
PATIENCE_SECONDS: Final = 900.0
OUTAGE_SECONDS: Final = 60.0
"""How long the controller is watched after the API server was away."""
EDITED: Final = 7


@dataclass(frozen=True, slots=True)
class Stage:
    """What the phases work with.

    Attributes:
        scale: of the cluster.
        controller: what is measured.
        audit: what it asks the API server for.
        observer: what comes of it.
        churn: lets nodes come and go.
        manager_requests: what each controller of Kubernetes may send in a second.
    """

    scale: Scale
    controller: Controller
    audit: Audit
    observer: Observer
    churn: Churn
    manager_requests: int

    def nodes(self) -> int:
        """How many nodes there are now."""
        return self.scale.nodes + self.churn.joined - self.churn.left


class _Span:
    """What the controller takes from now on, and who else has the CPUs."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._deaths = controller.deaths
        controller.forget_peak()
        self._before, self._cpu_before = controller.usage(), cpu.account()
        self._after, self._cpu_after = self._before, self._cpu_before

    def end(self) -> None:
        """Say that it ends here."""
        self._after, self._cpu_after = self._controller.usage(), cpu.account()

    def figures(self) -> list[Figure]:
        """What the controller took."""
        before, after = self._before, self._after
        seconds = after.at - before.at
        reconciles = after.reconciles - before.reconciles
        busy = after.reconcile_seconds - before.reconcile_seconds
        mean = 1000 * busy / reconciles if reconciles else None
        return [
            Figure(
                "CPU of the controller", 100 * (after.cpu - before.cpu) / seconds, "% of a core"
            ),
            Figure("memory, resident", after.rss, "MiB"),
            Figure("- at most", self._controller.peak(), "MiB", MEMORY_MIB),
            Figure("reconciles in a minute", 60 * reconciles / seconds, ""),
            Figure("- one of them, mean", mean, "ms"),
            Figure(
                "ended and was started again", self._controller.deaths - self._deaths, "times", 0
            ),
        ]

    def table(self, title: str, figures: Iterable[Figure]) -> str:
        """The figures, and who had the CPUs meanwhile."""
        shares = cpu.shares(self._cpu_before, self._cpu_after)
        return f"{report.table(title, [*figures, *self.figures()])}\n{shares}\n"


def applied(stage: Stage, policies: list[dict[str, Any]], title: str, *, apart: bool) -> str:
    """Apply policies that together select every node, and wait for all that follows.

    Args:
        stage: what to work with.
        policies: what is applied.
        title: of the table.
        apart: whether the agents' pods are made only when all KSMNodes and labels are written:
            agents are on machines of their own, but here they share the API server's CPUs.
    """
    seen, names = stage.observer, [one["metadata"]["name"] for one in policies]
    with contextlib.ExitStack() as meanwhile:
        if apart:
            meanwhile.enter_context(control_plane.manager_stopped(stage.manager_requests))
        span, began = _Span(stage.controller), time.time()
        _apply(policies)
        applied_at = time.time()
        first = wait_until(lambda: bool(seen.states), PATIENCE_SECONDS, "a first KSMNode")
        count = stage.nodes()
        states = wait_until(lambda: len(seen.owners) >= count, PATIENCE_SECONDS, "every KSMNode")
        labels = wait_until(lambda: len(seen.labelled) >= count, PATIENCE_SECONDS, "every label")
        span.end()
    since, after = (time.time(), " after that") if apart else (began, "")
    agreed = wait_until(lambda: len(seen.agreed) >= count, PATIENCE_SECONDS, "every agent")
    ready = wait_until(lambda: seen.ready(*names), PATIENCE_SECONDS, "every policy is ready")
    stage.audit.settle()
    asked = stage.audit.of(audit.CONTROLLER, began)
    pods = stage.audit.of(audit.DAEMONSETS, began)
    written = [one for one in asked if one.writes and one.at <= labels]
    figures = [
        Figure("`kubectl apply` itself", applied_at - began, "s"),
        Figure("first KSMNode seen", first - began, "s"),
        Figure("last KSMNode seen", states - began, "s"),
        Figure("- written, says the audit log", _since(began, asked, "create", "ksmnodes"), "s"),
        Figure("last label seen", labels - began, "s", APPLY_SECONDS if apart else None),
        Figure("- written, says the audit log", _since(began, asked, "patch", "nodes"), "s"),
        Figure(f"last pod object{after} (the controller manager's pace)", _pods(since, pods), "s"),
        Figure(f"last agent that says it merges{after}", agreed - since, "s"),
        Figure(f"every policy is Ready{after}", ready - since, "s"),
        Figure("writes of the controller until the last label", len(written), ""),
        Figure("- one of them inside the API server, median", _median_ms(written), "ms"),
    ]
    return span.table(title, figures)


def _apply(policies: Iterable[dict[str, Any]]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(policies)}
    kubectl("apply", "-f", "-", stdin=json.dumps(listed))


def _since(began: float, asked: Iterable[Request], verb: str, resource: str) -> float | None:
    at = audit.last(asked, verb, resource)
    return None if at is None else at - began


def _pods(began: float, asked: Iterable[Request]) -> float | None:
    return _since(began, asked, "create", "pods")


def _median_ms(asked: list[Request]) -> float | None:
    times = sorted(one.seconds for one in asked)
    return 1000 * times[len(times) // 2] if times else None


def deleted(stage: Stage, names: list[str], title: str) -> str:
    """Delete policies, and wait until their nodes are free of everything."""
    seen = stage.observer
    span, began = _Span(stage.controller), time.time()
    kubectl("delete", "ksmpolicy", *names, "--wait=false")
    gone = wait_until(
        lambda: not set(names) & set(seen.policies), PATIENCE_SECONDS, "the policies are gone"
    )
    labels = wait_until(lambda: not seen.labelled, PATIENCE_SECONDS, "no label is left")
    states = wait_until(lambda: not seen.states, PATIENCE_SECONDS, "no KSMNode is left")
    span.end()
    figures = [
        Figure("last policy gone", gone - began, "s"),
        Figure("last label gone", labels - began, "s"),
        Figure("last KSMNode gone", states - began, "s"),
    ]
    return span.table(title, figures)


def edited(stage: Stage) -> str:
    """Change one policy, and wait until its nodes are told and agree."""
    seen, policy = stage.observer, population.policy(EDITED, cpu_limit="300m")
    name = policy["metadata"]["name"]
    generation = max(told for owner, told in seen.owners.values() if owner == name)

    def told() -> set[str]:
        wanted = (name, generation + 1)
        return {node for node, owner in tuple(seen.owners.items()) if owner == wanted}

    count = sum(owner == name for owner, _ in seen.owners.values())
    began = time.time()
    _apply([policy])
    applied_at = time.time()
    last = wait_until(lambda: len(told()) >= count, PATIENCE_SECONDS, "every KSMNode is changed")
    ready = wait_until(
        lambda: seen.policies[name] == (generation + 1, "True"), PATIENCE_SECONDS, "Ready"
    )
    stage.audit.settle()
    asked = stage.audit.of(audit.CONTROLLER, began)
    figures = [
        Figure("`kubectl apply` itself", applied_at - began, "s"),
        Figure(f"last of {count} KSMNodes seen", last - began, "s"),
        Figure("- written, says the audit log", _since(began, asked, "patch", "ksmnodes"), "s"),
        Figure("the policy is Ready again", ready - began, "s"),
    ]
    return report.table("Edit of one policy while the fleet is at rest", figures)


def quiet(stage: Stage, minutes: float, churn: float) -> str:
    """Watch for some minutes what the controller does, with or without churn (percent an hour)."""
    what = f"{churn:g} % of the nodes replaced in an hour" if churn else "at rest"
    seen, changes = stage.observer, len(stage.observer.transitions)
    left = stage.churn.left
    span, began = _Span(stage.controller), time.time()
    if churn:
        stage.churn.run(churn, 60 * minutes)
    else:
        time.sleep(60 * minutes)
    end = time.time()
    span.end()
    stage.audit.settle()
    asked = stage.audit.of(audit.CONTROLLER, began, end)
    writes = [one for one in asked if one.writes]
    transitions = seen.transitions[changes:]
    seconds = end - began
    figures = [
        Figure("writes, Lease renewals among them", len(writes) / seconds, "/s", WRITES_PER_SECOND),
        Figure("- without", sum(not one.is_of_lease for one in writes) / seconds, "/s"),
        Figure("reads", (len(asked) - len(writes)) / seconds, "/s"),
        Figure("nodes replaced", stage.churn.left - left, ""),
        Figure("changes of `Ready` of a policy", len(transitions), "", 0),
    ]
    listed = "".join(f"- {one.policy}: {one.status} {one.reason}\n" for one in transitions)
    title = f"{minutes:g} minutes, {what}"
    return "\n".join(
        [span.table(title, figures), report.requests(f"Requests, {what}", asked, seconds), listed]
    )


def outage(stage: Stage) -> str:
    """Restart the API server, let one node join at once, and see what the controller does."""
    span, began = _Span(stage.controller), time.time()
    away = control_plane.restart_api_server()
    back = time.time()
    name = stage.churn.join()
    granted = wait_until(lambda: name in stage.observer.owners, PATIENCE_SECONDS, "it is granted")
    labelled = wait_until(
        lambda: name in stage.observer.labelled, PATIENCE_SECONDS, "it is labelled"
    )
    time.sleep(OUTAGE_SECONDS)
    stage.controller.wait_until_ready()
    span.end()
    stage.audit.settle()
    asked = stage.audit.of(audit.CONTROLLER, began)
    steps = [one for one in asked if one.writes and one.resource in ("ksmnodes", "nodes")]
    figures = [
        Figure("API server away", away, "s"),
        Figure("a node that joined then: KSMNode", granted - back, "s"),
        Figure("- label", labelled - back, "s"),
        Figure(
            "writes to nodes and KSMNodes that were not that one's", _others(steps, name), "", 0
        ),
    ]
    title = f"API server restarted, and {OUTAGE_SECONDS:.0f} s after it"
    seconds = time.time() - began
    return "\n".join(
        [span.table(title, figures), report.requests(f"Requests: {title}", asked, seconds)]
    )


def _others(steps: Iterable[Request], name: str) -> int:
    """How many steps were about other nodes; a creation does not name its object."""
    found = [one for one in steps if one.name != name]
    return max(0, len(found) - any(one.verb == "create" and not one.name for one in found))
