"""Nodes that are emulated machines: another kernel, cgroup version 2, and systemd for cgroups.

The programs and files of such a node lie where those of a node of this machine do, so it has the
same configuration but for what is said here.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from local_cluster import certificates, image_disk, layout, network, node
from local_cluster.components import program
from local_cluster.errors import LocalClusterError
from local_cluster.layout import VirtualNode
from local_cluster.processes import Service, find
from virtual_machines import disks, server
from virtual_machines.images import release
from virtual_machines.machines import KERNELS, Architecture, Kernel, host_architecture
from virtual_machines.server import Network

Say = Callable[[str], None]

KIND = "vm:"
LABEL = "local-cluster.ksm-operator.dev/kernel"
"""Label and taint of such a node; its value is the kernel's name.

An emulated machine is slow: what shall run there says so by tolerating it.
"""

KUBELET_PORT = 10250
NICENESS = 5

_UNITS = Path("/etc/systemd/system")
_TARGET = "node.target"
_PROGRAMS = (
    *("containerd", "containerd-shim-runc-v2", "ctr", "runc"),
    *("bridge", "host-local", "loopback", "portmap"),
    *("kubelet", "kube-proxy"),
)


def _kernels() -> dict[str, Kernel]:
    """The kernels that this machine's programs run on, by the names that people use for them."""
    return {
        kernel.name.rpartition("-")[2]: kernel
        for kernel in KERNELS.values()
        if kernel.architecture == host_architecture()
    }


def possible() -> list[VirtualNode]:
    """One node for each kernel; each always has the same addresses."""
    # The first part is that of the node of this machine.
    prefixes = list(ipaddress.ip_network(layout.POD_PREFIX).subnets(new_prefix=24))[1:]
    return [
        VirtualNode(
            f"vm-{name}",
            address=f"{layout.HOST_ADDRESS.rpartition('.')[0]}.{10 + number}",
            pod_prefix=str(prefixes[number]),
            kernel=name,
        )
        for number, name in enumerate(_kernels())
    ]


def present() -> list[VirtualNode]:
    """The nodes that are part of the cluster."""
    return [one for one in possible() if one.state.exists()]


def parse(text: str) -> dict[VirtualNode, str]:
    """The nodes that a person asks for, and the kernels' versions as they were written.

    Args:
        text: Such as `vm:7` or `vm:7.2,vm:6.12`, with commas or spaces between.

    Raises:
        LocalClusterError: There is no such machine.
    """
    by_kernel = {one.kernel: one for one in possible()}
    found = {}
    for word in re.findall(r"[^,\s]+", text):
        version = word.removeprefix(KIND)
        name = next((each for each in by_kernel if _is_of(version, each)), None)
        if name is None or not word.startswith(KIND):
            known = " ".join(f"{KIND}{each}" for each in by_kernel)
            raise LocalClusterError(f"NODES={text}: no machine {word!r}. There are: {known}")
        found[by_kernel[name]] = version
    return found


def _is_of(version: str, series: str) -> bool:
    """Whether a version is one of a series: 6.12.3 of 6.12, but not of 6.1."""
    return f"{version}.".startswith(f"{series}.")


def prepare(wanted: Mapping[VirtualNode, str], say: Say) -> None:
    """Fetch kernels and make disks for nodes.

    Raises:
        LocalClusterError: Debian has no such kernel now, or a package could not be had.
    """
    for one, version in wanted.items():
        kernel = _kernels()[one.kernel]
        disks.ensure(kernel, _programs(), say)
        # Debian's own part of it comes after a plus or a hyphen.
        found = re.split(r"[+-]", release(kernel))[0]
        if not _is_of(found, version):
            raise LocalClusterError(
                f"{KIND}{version}: the kernel in {', '.join(kernel.suites)} was {found} when it"
                f" was fetched. Take {KIND}{one.kernel}, or fetch what is there today:"
                f" python3 hack/vm build --newest {kernel.name}"
            )


def _programs() -> list[Path]:
    return [program(name) for name in _PROGRAMS]


def _disk(architecture: Architecture) -> Path:
    return disks.disk(architecture, _programs())


def _network(one: VirtualNode) -> Network:
    length = layout.NODE_PREFIX.partition("/")[2]
    return Network(
        ipaddress.IPv4Interface(f"{one.address}/{length}"),
        layout.HOST_ADDRESS,
        layout.API_PORT,
        (KUBELET_PORT,),
    )


def _initrd(one: VirtualNode) -> Path:
    return one.state / "initrd"


def machine(one: VirtualNode) -> Service:
    """Give the emulator of this node. Its log is the machine's console."""
    kernel = _kernels()[one.kernel]
    disk = _disk(kernel.architecture)
    # Go programs wake up for microseconds, each time into an emulated processor that is cold: with
    # no timers but the tick they sleep on.
    words = (f"systemd.unit={_TARGET}", "systemd.show_status=0", "highres=off")
    link = _network(one)
    return Service(
        f"qemu-{one.name}",
        server.command_line(
            kernel,
            name=one.name,
            disks=(disk, image_disk.FILE),
            start=_initrd(one),
            network=link,
            words=words,
        ),
        niceness=NICENESS,
        mark=one.name,
    )


def ready(one: VirtualNode) -> None:
    """Write what the machine starts with, and make its address reachable."""
    network.ensure_address(one)
    if find(machine(one)) is None:
        one.state.mkdir(parents=True, exist_ok=True)
        files = {path: text.encode() for path, text in _files(one).items()}
        identity = certificates.kubelet(one)
        copied = (certificates.AUTHORITY, identity.certificate, identity.key)
        files |= {path: path.read_bytes() for path in copied}
        content = server.initrd(
            _kernels()[one.kernel],
            _network(one),
            route=layout.SERVICE_PREFIX,
            mounted=node.containerd_root(one),
            files=files,
        )
        _initrd(one).touch(mode=0o600)
        _initrd(one).write_bytes(content)


def switched_on(one: VirtualNode) -> float:
    """When the machine was switched on, Unix time, s."""
    return _initrd(one).stat().st_mtime


def _files(one: VirtualNode) -> dict[Path, str]:
    containerd = node.containerd_config(
        one, snapshotter="overlayfs", restrict_oom_score=False, systemd_cgroup=True
    )
    taint = {"key": LABEL, "value": one.kernel, "effect": "NoSchedule"}
    kubelet = node.kubelet_config(one) | {
        "cgroupDriver": "systemd",
        "cgroupRoot": "/",
        "cpuManagerPolicy": "none",  # it has one CPU
        "registerWithTaints": [taint],
    }
    services = node.services(one)
    units = {f"{service.name}.service": _unit(one, service) for service in services}
    target = f"[Unit]\nRequires={' '.join(units)}\nAllowIsolate=yes\n"
    return {
        **node.configuration(one, containerd, kubelet),
        **{_UNITS / name: text for name, text in {**units, _TARGET: target}.items()},
        Path("/etc/hostname"): f"{one.name}\n",
    }


def _unit(one: VirtualNode, service: Service) -> str:
    """A service of systemd's that runs what a node of this machine runs."""
    containerd = node.containerd(one)
    command = list(service.command)
    details = []
    before = ""
    if service == containerd:
        details += ["Type=notify", "Delegate=yes", "KillMode=process", "LimitNOFILE=1048576"]
    else:
        before = f"After={containerd.name}.service\n"
    if service == node.kubelet(one):
        command.append(f"--node-labels={LABEL}={one.kernel}")
    path = ":".join([*map(str, service.search_path), "/usr/sbin", "/usr/bin"])
    return (
        # Without what systemd starts for people and devices: nobody logs in here.
        # However slow the machine is, it goes on trying.
        f"[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n{before}"
        f"[Service]\nExecStart={' '.join(command)}\n"
        f"Environment=PATH={path} HOME=/root\n"
        "StandardOutput=tty\nStandardError=tty\n"
        "Restart=always\nRestartSec=1\nTimeoutStartSec=infinity\n"
        + "".join(f"{line}\n" for line in details)
    )
