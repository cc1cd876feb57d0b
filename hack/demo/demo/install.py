"""The operator and the workload, onto the cluster."""

from demo import clean
from demo.names import (
    AGENTS,
    CONTROLLER,
    CRDS,
    DEMO_LABEL,
    NAMESPACE,
    OTHER,
    POLICY,
    RELEASE,
    RELEASE_LABEL,
    WEB,
)
from demo.setup import WORKLOAD_IMAGE, Images
from demo.shell import REPOSITORY, DemoError, Shell, say, step


def check_free(shell: Shell) -> None:
    """Refuse to touch what belongs to somebody else.

    Raises:
        DemoError: a namespace, a label or the policy's name is in use.
    """
    for name in (WEB, OTHER, NAMESPACE):
        _wait_if_terminating(shell, name)
    for name in (WEB, OTHER):
        if shell.exists("namespace", name) and not clean.is_demo_namespace(shell, name):
            raise DemoError(f"there is a namespace {name} already that is not the demo's")
    labelled = {item["metadata"]["name"] for item in shell.objects("namespaces", "-l", "ksm=web")}
    if others := ", ".join(sorted(labelled - {WEB})):
        raise DemoError(
            f"the demo's policy would take these namespaces too, because of their label ksm=web: "
            f"{others}. Try it on another cluster"
        )
    if (
        shell.exists("crd", CRDS[0])
        and shell.exists("ksmpolicy", POLICY)
        and not shell.exists("namespace", WEB)
    ):
        raise DemoError(
            f"there is a KSMPolicy {POLICY} already that is not the demo's. "
            f"If you do not need it: kubectl delete ksmpolicy {POLICY}"
        )


def _wait_if_terminating(shell: Shell, name: str) -> None:
    phase = shell.read(
        *("kubectl", "get", "namespace", name, "--ignore-not-found"),
        *("-o", "jsonpath={.status.phase}"),
    )
    if phase == "Terminating":
        say(f"Namespace {name} is being deleted; waiting for that ...")
        shell.show("kubectl", "wait", "--for=delete", f"namespace/{name}", "--timeout=3m")


def start_over(shell: Shell) -> None:
    """Take the policy of an earlier run away, so that `before` is before."""
    if shell.exists("crd", CRDS[0]) and shell.exists("ksmpolicy", POLICY):
        step("The policy of an earlier run goes first, so that `before` is before")
        shell.show("kubectl", "delete", "ksmpolicy", POLICY, "--timeout=11m", timeout=700)
        shell.show(
            *("kubectl", "wait", "--for=delete", "pod", "-n", NAMESPACE, "-l", AGENTS),
            "--timeout=2m",
        )


def operator(shell: Shell, images: Images) -> None:
    """Install it with Helm, or use the one that is there."""
    step("The operator, with Helm")
    is_upgrade = clean.is_installed(shell)
    if is_upgrade and not clean.is_demo_release(shell):
        say("It is installed already: the demo uses it as it is, and leaves it in the end.")
        shell.show("helm", "status", RELEASE, "--namespace", NAMESPACE)
        return
    if not shell.exists("namespace", NAMESPACE):
        shell.show("kubectl", "create", "namespace", NAMESPACE)
        shell.read("kubectl", "label", "namespace", NAMESPACE, f"{DEMO_LABEL}=true")
    # The agents are privileged.
    privileged = "pod-security.kubernetes.io/enforce=privileged"
    shell.show("kubectl", "label", "namespace", NAMESPACE, privileged, "--overwrite")
    shell.show(
        *("helm", "upgrade", "--install", RELEASE, "helm/ksm-operator", "--namespace", NAMESPACE),
        *images.chart_values,
        *("--labels", RELEASE_LABEL, "--wait", "--timeout", "3m"),
    )
    if is_upgrade:
        # The image may be another one under the same name.
        shell.show("kubectl", "rollout", "restart", CONTROLLER, "-n", NAMESPACE)
        shell.show("kubectl", "rollout", "status", CONTROLLER, "-n", NAMESPACE, "--timeout=2m")


def workload(shell: Shell, images: Images) -> None:
    """Eight pods in a namespace that will be selected, two in one that will not."""
    step("A workload: a real Python service, 8 pods of 2 workers; 2 pods in another namespace")
    for name in (WEB, OTHER):
        example(shell, images, name)
    for name in (WEB, OTHER):
        shell.show("kubectl", "rollout", "status", "deployment/web", "-n", name, "--timeout=5m")


def example(shell: Shell, images: Images, name: str) -> None:
    """Apply one of examples/, with the workload's image as this cluster can pull it."""
    file = f"examples/{name}.yaml"
    if images.workload == WORKLOAD_IMAGE:
        shell.show("kubectl", "apply", "-f", file)
        return
    say(f"$ sed 's|{WORKLOAD_IMAGE}|{images.workload}|' {file} | kubectl apply -f -")
    text = (REPOSITORY / file).read_text().replace(WORKLOAD_IMAGE, images.workload)
    print(shell.read("kubectl", "apply", "-f", "-", stdin=text), end="")
