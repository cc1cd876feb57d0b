"""The demo from its first to its last line."""

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path

from demo import install, intruder
from demo.figures import Pod, mib, percent, pod_table, pods, shares
from demo.names import FIRST_WORDS, NAMESPACE, OTHER, POLICY, REPLICAS, WEB
from demo.node import Nodes, memory, running_pods, wait_for_quiet
from demo.setup import Images, Settings, bring_up, check_images, provide_images
from demo.shell import DemoError, Shell, say, step

LOCK = Path("/run/lock/ksm-operator-tests.lock")
"""One machine has one KSM: the tests take this lock as well."""

LOAD_SECONDS = 5
"""A pod is ready with its first worker; the second one is loaded a moment later."""


def run(settings: Settings) -> None:
    """All of it.

    Raises:
        DemoError: something failed; the message says what to do.
    """
    started = time.monotonic()
    check_images(settings)
    with _machine(settings):
        shell = bring_up(settings)
        install.check_free(shell)
        images = provide_images(settings, shell)
        install.start_over(shell)
        install.operator(shell, images)
        install.workload(shell, images)
        _show(shell, images)
    say(f"\nThe demo took {time.monotonic() - started:.0f} s. Everything keeps running.")
    _say_what_next(settings)


@contextlib.contextmanager
def _machine(settings: Settings) -> Iterator[None]:
    """This machine's KSM to ourselves, where the cluster is on this machine."""
    if not settings.local:
        yield
        return
    try:
        LOCK.parent.mkdir(parents=True, exist_ok=True)
        file = LOCK.open("w")
    except PermissionError:
        raise DemoError("the local cluster needs root: sudo make demo") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another run uses this machine's KSM ({LOCK}); waiting for it ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _show(shell: Shell, images: Images) -> None:
    web = _settled(shell)
    step("Memory before")
    wait_for_quiet(shell, web)
    before = memory(shell, web, show=True)

    step("The policy")
    shell.show("cat", "examples/ksmpolicy-web.yaml")
    shell.show("kubectl", "apply", "-f", "examples/ksmpolicy-web.yaml")
    applied = time.monotonic()
    shell.show("kubectl", "wait", "--for=condition=Ready", f"ksmpolicy/{POLICY}", "--timeout=3m")
    say(
        f"Ready {time.monotonic() - applied:.1f} s after it was applied, agents started on the way."
    )
    nodes = Nodes.find(shell, web)

    step("The ground truth: every page of these pods, hashed")
    say("Counts what is there more than once, merged already or not: all that merging can save.")
    truth = nodes.duplicates(web)
    held = sum(truth.private.values())
    say(
        f"The {len(web)} pods hold {mib(held)}, of which {mib(truth.duplicate)} "
        f"({percent(truth.duplicate, held)}) are there more than once."
    )

    step("Watching ksmd merge")
    samples = nodes.watch(truth.duplicate, applied)
    saved, used = samples[-1].saved, shares(samples)
    after = memory(shell, web)
    say(
        f"\nSaved {mib(saved)}: {percent(saved, truth.duplicate)} of all duplicates, "
        f"{percent(saved, held)} of what the pods hold."
    )
    if saved > truth.duplicate:
        say(
            "(A little above 100 %: the kernel counts a merged page once more for each process "
            "that had it by fork already.)"
        )
    say(
        f"The node's programs hold {mib(after.programs)} instead of {mib(before.programs)} "
        f"(AnonPages), {mib(after.available)} are available instead of {mib(before.available)} "
        "(MemAvailable, which moves with much else)."
    )

    say(
        f"ksmd used up to {1000 * max(used):.0f}m of a CPU while there was something to merge, and "
        f"uses {1000 * used[-1]:.0f}m now. Nothing was set for that: the policy's limit is 200m."
    )

    step("Pod by pod")
    say("A merged page counts in every process that maps it, so this column adds up to more.\n")
    say(pod_table(web, nodes.processes(web), truth.private))

    step(f"The other namespace, {OTHER}, is untouched")
    _untouched(shell)
    step("A new pod")
    _newcomer(shell)
    step("What a new program reads of itself before anything else")
    _first_words(shell, images)
    step("What Kubernetes shows")
    _wait_for_status(shell, saved)
    for arguments in (
        ("get", "ksmpolicy"),
        ("get", "ksmpolicy", "-o", "wide"),
        ("get", "ksmnode"),
        ("describe", "ksmpolicy", POLICY),
    ):
        shell.show("kubectl", *arguments)
        say()

    step(f"Somebody in {OTHER} asks for merging by himself")
    intruder.show(shell)


def _settled(shell: Shell) -> list[Pod]:
    """The pods, once no pod of an earlier run is on its way out."""
    deadline = time.monotonic() + 120
    while len(items := shell.objects("pods", "-n", WEB)) != REPLICAS:
        if time.monotonic() > deadline:
            raise DemoError(
                f"{len(items)} pods in {WEB} instead of {REPLICAS}: kubectl get pods -n {WEB}"
            )
        time.sleep(1)
    time.sleep(LOAD_SECONDS)
    return pods(items)


def _untouched(shell: Shell) -> None:
    other = running_pods(shell, OTHER)
    nodes = Nodes.find(shell, other, needs_agent=False)
    found = nodes.processes(other)
    if not found:
        say(f"The pods of {OTHER} run on nodes without an agent: nothing could touch them.")
        return
    nodes.show_mergeable(found)
    merging = [one for one in found if one["mergeable"]]
    if merging:
        raise DemoError(f"processes of {OTHER} are mergeable: {merging}")
    say(f"{len(found)} processes in {len(other)} pods, none of them mergeable.")


def _newcomer(shell: Shell) -> None:
    known = {pod.uid for pod in running_pods(shell, WEB)}
    replicas = f"--replicas={REPLICAS + 1}"
    shell.show("kubectl", "scale", "-n", WEB, "deployment/web", replicas)
    deadline = time.monotonic() + 60
    while not (new := [pod for pod in running_pods(shell, WEB) if pod.uid not in known]):
        if time.monotonic() > deadline:
            raise DemoError(f"no new pod within 60 s: kubectl describe pods -n {WEB}")
        time.sleep(0.1)
    caught = Nodes.find(shell, new).watch_newcomer(new[0])
    say(f"Pod {new[0].name}:")
    for one in sorted(caught, key=lambda one: one["pid"]):
        say(
            f"  process {one['pid']} ({one['name']}): mergeable when first looked at, "
            f"{1000 * one['age']:.0f} ms after its start"
        )
    shell.show("kubectl", "rollout", "status", "deployment/web", "-n", WEB, "--timeout=2m")


def _first_words(shell: Shell, images: Images) -> None:
    pod = f"pod/{FIRST_WORDS}"
    shell.read("kubectl", "delete", "-n", WEB, pod, "--ignore-not-found", "--timeout=1m")
    install.example(shell, images, f"demo-{FIRST_WORDS}")
    phase = "--for=jsonpath={.status.phase}=Succeeded"
    shell.show("kubectl", "wait", "-n", WEB, phase, pod, "--timeout=1m")
    words = shell.read("kubectl", "logs", "-n", WEB, pod)
    say(f"$ kubectl logs -n {WEB} {pod}")
    say(words.rstrip())
    shell.read("kubectl", "delete", "-n", WEB, pod, "--wait=false")
    if "ksm_merge_any: no" in words:
        raise DemoError(
            f"the program of {pod} began before it was enrolled: "
            f"kubectl logs -n {NAMESPACE} daemonset/ksm-operator-agent"
        )
    if "ksm_merge_any: yes" in words:
        say("It was enrolled before its program was loaded, by a policy that it knows nothing of.")
    else:
        say("(This kernel does not tell a program that; Linux 6.14 and newer do.)")


def _wait_for_status(shell: Shell, saved: int) -> None:
    """Agents write quietly, once a minute at most: wait until the figure has come through."""
    told = False
    deadline = time.monotonic() + 75
    while time.monotonic() < deadline:
        text = shell.read("kubectl", "get", "ksmpolicy", POLICY, "-o", "jsonpath={.status}")
        status = json.loads(text or "{}")
        merging = status.get("pods", {}).get("merging", 0)
        if merging > REPLICAS and status["memory"]["savedBytes"] >= saved * 0.9:
            break
        if not told:
            say("(Agents write their status quietly, once a minute at most; waiting for it ...)\n")
            told = True
        time.sleep(1)


def _say_what_next(settings: Settings) -> None:
    cluster = "" if settings.local else " CLUSTER=current"
    step("What to try next")
    if settings.local:
        say('eval "$(make -s cluster-env)"      # kubectl, helm and ctr of this cluster')
    say(
        f"""kubectl get ksmpolicy -w
kubectl explain ksmpolicy.spec
kubectl get ksmnode -o yaml
kubectl exec -n {NAMESPACE} daemonset/ksm-operator-agent -- ksm-node status
kubectl patch ksmpolicy {POLICY} --type=merge -p '{{"spec":{{"mode":"Paused"}}}}'
kubectl delete ksmpolicy {POLICY}         # every page goes back, nobody is killed
make demo-clean{cluster}             # undo everything"""
    )
