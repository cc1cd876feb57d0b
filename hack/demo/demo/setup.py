"""Where the demo runs and with which images."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from demo.shell import REPOSITORY, DemoError, Shell, step

OPERATOR_IMAGE = "localhost/ksm-operator:dev"
WORKLOAD_IMAGE = "localhost/ksm-demo-web:dev"


@dataclass(frozen=True)
class Settings:
    """What the person chose.

    Attributes:
        local: the cluster is the local one of this repository.
        image: the operator's image, None to build it.
        workload_image: the workload's, None to build it.
        registry: where to push what is built, None for the local cluster.
    """

    local: bool
    image: str | None = None
    workload_image: str | None = None
    registry: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read CLUSTER, IMAGE, WORKLOAD_IMAGE and REGISTRY.

        Raises:
            DemoError: CLUSTER is neither `local` nor `current`.
        """
        cluster = environment.get("CLUSTER") or "local"
        if cluster not in ("local", "current"):
            raise DemoError(
                f"CLUSTER={cluster}: write local, or current for the one kubectl points to"
            )
        return cls(
            local=cluster == "local",
            image=environment.get("IMAGE") or None,
            workload_image=environment.get("WORKLOAD_IMAGE") or None,
            registry=(environment.get("REGISTRY") or "").rstrip("/") or None,
        )


@dataclass(frozen=True)
class Images:
    """Names of the images as the cluster's nodes know them."""

    operator: str
    workload: str

    @property
    def chart_values(self) -> list[str]:
        """What `helm` is told of the operator's image."""
        name, digest = split_digest(self.operator)
        repository, tag = split_tag(name)
        values = ["--set", f"image.repository={repository}"]
        if tag:
            values += ["--set-string", f"image.tag={tag}"]
        if digest:
            values += ["--set", f"image.digest={digest}"]
        return values


def split_digest(name: str) -> tuple[str, str]:
    """An image's name and its digest, empty if it has none."""
    before, _, digest = name.partition("@")
    return before, digest


def split_tag(name: str) -> tuple[str, str]:
    """An image's repository and its tag, empty if it has none; a port is no tag."""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "")


def check_images(settings: Settings) -> None:
    """Refuse what cannot work before anything is touched.

    Raises:
        DemoError: a cluster of one's own and no images that it could pull.
    """
    if settings.local or settings.registry or (settings.image and settings.workload_image):
        return
    raise DemoError(
        "your cluster needs two images that it can pull. Either name them both:\n"
        "  make demo CLUSTER=current IMAGE=registry.example.com/ksm-operator:0.1.0 "
        "WORKLOAD_IMAGE=registry.example.com/ksm-demo-web:0.1.0\n"
        "or have them built and pushed (log in with `buildah login` first):\n"
        "  make demo CLUSTER=current REGISTRY=registry.example.com/team"
    )


def bring_up(settings: Settings) -> Shell:
    """A cluster to work on, and a shell for it.

    Raises:
        DemoError: there is none and none can be made.
    """
    here = Shell(dict(os.environ))
    if not settings.local:
        step("The cluster that kubectl points to")
        here.show("kubectl", "config", "current-context")
        here.show("kubectl", "get", "nodes")
        return here
    step("A real Kubernetes cluster on this machine")
    here.show("make", "-s", "cluster-up", timeout=3600)
    shell = local_shell()
    shell.show("kubectl", "get", "nodes", "-o", "wide")
    return shell


def local_shell() -> Shell:
    """A shell for the local cluster.

    Raises:
        DemoError: there is none.
    """
    shown = subprocess.run(
        ["bash", "-c", 'lines="$(make -s cluster-env)" && eval "$lines" && env -0'],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    if shown.returncode != 0:
        raise DemoError(shown.stderr.strip() or "make cluster-env failed")
    pairs = (entry.partition("=") for entry in shown.stdout.split("\0") if entry)
    return Shell({name: value for name, _, value in pairs})


def provide_images(settings: Settings, shell: Shell) -> Images:
    """Build what is not named, and put it where the cluster finds it."""
    step("The images: the operator's, and a workload's (hack/demo/workload)")
    build = ["python3", "hack/image"]
    workload = [*build, "--name", WORKLOAD_IMAGE, "--context", "hack/demo/workload"]
    if settings.local:
        operator, other = settings.image or OPERATOR_IMAGE, settings.workload_image
        if not settings.image:
            shell.show("make", "-s", "image")
        if not other:
            shell.show(*workload)
        return Images(operator, other or WORKLOAD_IMAGE)
    names = []
    for given, command, name in (
        (settings.image, build, OPERATOR_IMAGE),
        (settings.workload_image, workload, WORKLOAD_IMAGE),
    ):
        names.append(given or _push(shell, [*command, "--no-load"], name, settings.registry or ""))
    return Images(*names)


def _push(shell: Shell, build: list[str], name: str, registry: str) -> str:
    target = f"{registry}/{name.rpartition('/')[2]}"
    archive = shell.read(*build).strip().splitlines()[-1]
    image = shell.read("buildah", "pull", "--quiet", f"oci-archive:{archive}").strip()
    shell.show("buildah", "push", image, f"docker://{target}")
    return target
