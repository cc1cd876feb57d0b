"""Bringing the whole cluster up and taking it down again, from whatever state it is in."""

import contextlib
import http
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from local_cluster import (
    archives,
    certificates,
    cgroups,
    components,
    controlplane,
    image_disk,
    images,
    layout,
    machine,
    mounts,
    network,
    node,
    prerequisites,
    processes,
    traces,
    virtual_nodes,
)
from local_cluster.components import program
from local_cluster.errors import LocalClusterError
from local_cluster.layout import NODE, HostNode, Node, VirtualNode
from local_cluster.processes import Service

Say = Callable[[str], None]

READY_SECONDS = 120.0
MACHINE_SECONDS = 400.0
"""An emulated machine boots in half a minute where nothing else runs."""
STOP_SECONDS = 20.0
OUTAGE_SECONDS = 2.0
POD_GRACE_SECONDS = 10
POD_DELETE_SECONDS = 40


def prepare(names: tuple[str, ...], say: Say) -> None:
    """Build the components and get what building them needs."""
    if any(component.cgo for component in components.missing(names)):
        prerequisites.provide(prerequisites.BUILDING_RUNC, say)
    components.ensure(names, say)


def up(say: Say, wanted: Mapping[VirtualNode, str] | None = None) -> None:
    """Bring the cluster up; does nothing where it is up already.

    Args:
        say: Where progress goes.
        wanted: Virtual nodes that shall be there, beside those that are, with their kernel's
            version as a person wrote it.

    Raises:
        LocalClusterError: Something is in the way; says what to do.
    """
    prerequisites.require_root()
    prerequisites.provide(prerequisites.RUNNING + prerequisites.BUILDING_IMAGES, say)
    prepare(components.CLUSTER, say)
    virtual = {one: one.kernel for one in virtual_nodes.present()} | dict(wanted or {})
    virtual_nodes.prepare(virtual, say)
    network.require_free_prefixes([NODE])
    _save_what_will_change()
    certificates.ensure([NODE, *virtual])
    network.ensure(NODE)
    processes.raise_file_limit()
    _start_control_plane(say)
    _start_node(NODE, say)
    _start_machines(virtual, say)
    _write_shell_folder(NODE)
    _wait_until_ready(NODE, node.kubelet(NODE), READY_SECONDS)
    _wait_for_machines(virtual)
    names = ", ".join(one.name for one in (NODE, *virtual))
    say(f"Ready: Kubernetes with {names}, KUBECONFIG={layout.admin_kubeconfig()}")


def up_control_plane(say: Say, *manager_options: str) -> None:
    """Bring up etcd, the API server and the controller manager, and nothing that runs pods.

    `down` takes it down like a whole cluster.

    Args:
        say: Where progress goes.
        manager_options: Of the controller manager, beyond a cluster's own.

    Raises:
        LocalClusterError: Something is in the way; says what to do.
    """
    prerequisites.require_root()
    prerequisites.provide(prerequisites.RUNNING, say)
    prepare(components.CONTROL_PLANE, say)
    network.require_free_prefixes([NODE])
    _save_what_will_change()
    certificates.ensure([NODE])
    network.ensure(NODE)
    processes.raise_file_limit()
    _start_api(say)
    processes.start(controlplane.controller_manager(*manager_options))


def _save_what_will_change() -> None:
    for folder in (layout.STATE, layout.RUN):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
    machine.save()
    traces.save()
    cgroups.create()


def _start_control_plane(say: Say) -> None:
    _start_api(say)
    for service in (controlplane.controller_manager(), controlplane.scheduler()):
        processes.start(service)


def _start_api(say: Say) -> None:
    controlplane.write_configuration()
    etcd, api = controlplane.etcd(), controlplane.api_server()
    if processes.find(etcd) is None:
        # A socket that a killed etcd left would be taken for a living one.
        controlplane.ETCD_SOCKET.unlink(missing_ok=True)
    if processes.find(api) is None:
        network.require_free_port(layout.HOST_ADDRESS, layout.API_PORT)
        say("Starting the control plane ...")
    pid = processes.start(etcd)
    controlplane.wait_for_socket(etcd, pid, controlplane.ETCD_SOCKET, 30)
    pid = processes.start(api)
    controlplane.wait_until_ready(api, pid, READY_SECONDS)


def _start_machines(virtual: Iterable[VirtualNode], say: Say) -> None:
    for one in virtual:
        emulator = virtual_nodes.machine(one)
        if processes.find(emulator) is None:
            image_disk.ensure(NODE, say)
            say(f"Starting {one.name}, an emulated machine ...")
        virtual_nodes.ready(one)
        processes.start(emulator)


def _wait_for_machines(virtual: Iterable[VirtualNode]) -> None:
    for one in virtual:
        _wait_until_ready(one, virtual_nodes.machine(one), MACHINE_SECONDS)


def _start_node(one: HostNode, say: Say) -> None:
    if processes.find(node.kubelet(one)) is None:
        say(f"Starting {one.name} ...")
        node.cpu_assignments(one).unlink(missing_ok=True)
    if processes.find(node.containerd(one)) is None:
        node.write_configuration(one)
    containerd = node.containerd(one)
    pid = processes.start(containerd)
    images.wait_for_containerd(one.containerd_socket, containerd, pid)
    for archive in images.standing_archives():
        if not set(archives.names(archive)) <= images.present(one):
            images.load(one, archive)
    for service in node.services(one)[1:]:
        processes.start(service)


def _write_shell_folder(one: Node) -> None:
    folder = layout.shell_path()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("kubectl", "helm"):
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(program(name))
    ctr = folder / "ctr"
    ctr.write_text(
        "#!/bin/sh\n"
        f"# The containerd of {one.name}, in the namespace that the kubelet uses.\n"
        f"export CONTAINERD_ADDRESS={one.containerd_socket} CONTAINERD_NAMESPACE=k8s.io\n"
        f'exec {program("ctr")} "$@"\n'
    )
    ctr.chmod(0o755)


def node_is_ready(name: str, since: float = 0) -> bool:
    """Whether the API server says that this node is Ready.

    Args:
        name: The node's.
        since: What its kubelet said before does not count; Unix time, s.
    """
    status, body = controlplane.ask(f"/api/v1/nodes/{name}")
    if status != http.HTTPStatus.OK:
        return False
    conditions = json.loads(body)["status"].get("conditions", [])
    return any(
        one["type"] == "Ready"
        and one["status"] == "True"
        and datetime.fromisoformat(one["lastHeartbeatTime"]).timestamp() >= since
        for one in conditions
    )


def has_default_account() -> bool:
    """Whether pods can be made in namespace `default`."""
    return controlplane.answers("/api/v1/namespaces/default/serviceaccounts/default")


def _wait_until_ready(one: Node, speaker: Service, seconds: float) -> None:
    started = [(service, processes.find(service)) for service in services()]
    deadline = time.monotonic() + seconds
    while not (_answers_as_ready(one) and has_default_account()):
        for service, pid in started:
            if pid is not None:
                processes.require_alive(service, pid)
        if time.monotonic() > deadline:
            raise LocalClusterError(
                f"{one.name} is not Ready after {seconds:.0f} s. {speaker.log}:\n"
                + processes.log_tail(speaker)
            )
        time.sleep(0.2)


def _answers_as_ready(one: Node) -> bool:
    # A node that was Ready before an interruption still says so for a while.
    if isinstance(one, VirtualNode):
        return node_is_ready(one.name, since=int(virtual_nodes.switched_on(one)))
    return node_is_ready(one.name) and images.is_answering(NODE)


def load(archive: Path, say: Say) -> list[str]:
    """Load an image archive into every node, and give its names.

    Virtual nodes have their images on a disk, so they are switched off and on again for new ones.

    Raises:
        LocalClusterError: It is no image archive, or a node did not take it.
    """
    names = images.load(NODE, archive)
    virtual = virtual_nodes.present()
    if virtual and not image_disk.is_current(NODE):
        say(f"Switching {', '.join(one.name for one in virtual)} off and on, for new images ...")
        for one in virtual:
            _stop(virtual_nodes.machine(one))
        _start_machines(virtual, say)
        _wait_for_machines(virtual)
    return names


def nodes() -> list[Node]:
    """Every node of the cluster."""
    return [NODE, *virtual_nodes.present()]


def services() -> list[Service]:
    """Everything that runs, in the order it starts."""
    return [
        controlplane.etcd(),
        controlplane.api_server(),
        controlplane.controller_manager(),
        controlplane.scheduler(),
        *node.services(NODE),
        *(virtual_nodes.machine(one) for one in virtual_nodes.present()),
    ]


def is_up() -> bool:
    """Whether every part runs and every node is Ready."""
    return all(processes.find(one) is not None for one in services()) and all(
        node_is_ready(one.name) for one in nodes()
    )


def exists() -> bool:
    """Whether anything of a cluster is there, whole or not."""
    return layout.STATE.exists() or layout.RUN.exists() or bool(cgroups.members())


def down(say: Say) -> None:
    """Take everything down and leave nothing behind, whatever state it is in.

    Raises:
        LocalClusterError: Something would not go away; says what.
    """
    prerequisites.require_root()
    if not exists():
        say("There is no local cluster.")
        return
    say("Taking the cluster down ...")
    for pods_keeper in (controlplane.scheduler(), controlplane.controller_manager()):
        _stop(pods_keeper)
    _delete_pods(say)
    for one in virtual_nodes.possible():
        _remove_machine(one)
    for service in reversed(node.services(NODE)[1:]):
        _stop(service)
    processes.stop_pids(node.pod_members(), patience=5)
    _stop(node.containerd(NODE))
    _stop(controlplane.api_server())
    _stop(controlplane.etcd())
    processes.stop_pids(cgroups.members(), patience=5)
    mounts.unmount_below(layout.STATE)
    network.remove(NODE)
    mounts.unmount_below(layout.RUN)
    left = cgroups.remove()
    machine.restore()
    traces.remove()
    for folder in (layout.RUN, layout.STATE):
        shutil.rmtree(folder, ignore_errors=True)
    leftovers = [str(path) for path in (*left, layout.RUN, layout.STATE) if path.exists()]
    if leftovers:
        raise LocalClusterError(f"Could not remove: {', '.join(leftovers)}")
    say("Down: nothing of it is left but the cache.")


def remove(leaving: Iterable[VirtualNode], say: Say) -> None:
    """Take virtual nodes out of the cluster, with all that runs on them.

    Raises:
        LocalClusterError: The API server does not let them go.
    """
    for one in leaving:
        if one not in virtual_nodes.present():
            say(f"{one.name} is no node of the local cluster.")
            continue
        say(f"Taking {one.name} away ...")
        _remove_machine(one)
        on_it = ("--all-namespaces", f"--field-selector=spec.nodeName={one.name}")
        for what in (
            ("node", one.name, "--ignore-not-found"),
            # Their kubelet is gone: nobody else would say that they have ended.
            ("pods", *on_it, "--force", "--grace-period=0"),
        ):
            answer = _kubectl("delete", *what)
            if answer.returncode != 0:
                raise LocalClusterError(f"kubectl delete {' '.join(what)}: {answer.stderr}")


def _remove_machine(one: VirtualNode) -> None:
    if one.state.exists():
        _stop(virtual_nodes.machine(one))
    network.remove_address(one)
    shutil.rmtree(one.state, ignore_errors=True)


def _stop(service: Service, patience: float = STOP_SECONDS) -> None:
    pid = processes.find(service)
    processes.stop_pids([*([pid] if pid else []), *processes.outdated(service)], patience)


def _delete_pods(say: Say) -> None:
    """Let pods end as Kubernetes ends them, so that they can put back what they changed."""
    if not node.pod_members() or not controlplane.is_ready():
        return
    say("Deleting the pods ...")
    answer = _kubectl(
        *("delete", "pods", "--all", "--all-namespaces"),
        f"--grace-period={POD_GRACE_SECONDS}",
        f"--timeout={POD_DELETE_SECONDS}s",
    )
    if answer.returncode != 0:
        say(f"Some pods did not end in {POD_DELETE_SECONDS} s and are killed now.")


def _kubectl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            str(program("kubectl")),
            f"--kubeconfig={layout.admin_kubeconfig()}",
            f"--cache-dir={layout.STATE}/kubectl-cache",
            *arguments,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def switch(name: str, *, on: bool) -> None:
    """Stop one service, or start what is stopped: for tests of an outage.

    Raises:
        LocalClusterError: There is no such service.
    """
    by_name = {service.name: service for service in services()}
    if name not in by_name:
        raise LocalClusterError(f"No service {name!r}. There are: {', '.join(by_name)}")
    if on:
        up(lambda _: None)
    else:
        # An API server would wait for its watchers, which are not told to go.
        _stop(by_name[name], patience=OUTAGE_SECONDS)


def status() -> Iterator[str]:
    """What runs, one line each."""
    if not exists():
        yield "There is no local cluster (make cluster-up)."
        return
    for service in services():
        pid = processes.find(service)
        yield f"{service.name:<26} {f'running, pid {pid}' if pid else f'stopped ({service.log})'}"
    for one in nodes():
        yield f"{one.name:<26} {'Ready' if node_is_ready(one.name) else 'not Ready'}"
    with contextlib.suppress(LocalClusterError):
        for image in sorted(images.digests(NODE)):
            yield f"image {image}"
