"""Which machines there are: a kernel of Debian's and what emulates the hardware for it."""

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """What one kind of processor needs.

    Attributes:
        name: As Debian calls it.
        machine: As the kernel calls it.
        triplet: As the C library and the compiler call it.
        loader: The dynamic loader, below the root.
        qemu: The emulator's program.
        packages: The Debian packages that bring the emulator.
        cross_packages: The Debian packages that bring a C compiler for it on another machine.
        hardware: The emulator's flags.
        console: The serial port, as the kernel names it.
    """

    name: str
    machine: str
    triplet: str
    loader: str
    qemu: str
    packages: tuple[str, ...]
    cross_packages: tuple[str, ...]
    hardware: tuple[str, ...]
    console: str


# mem-merge=off: QEMU asks ksmd to merge a guest's memory unless it is told not to, and a guest that
# runs beside the other tests must not merge with what they look at.
AMD64 = Architecture(
    name="amd64",
    machine="x86_64",
    triplet="x86_64-linux-gnu",
    loader="usr/lib64/ld-linux-x86-64.so.2",
    qemu="qemu-system-x86_64",
    packages=("qemu-system-x86", "seabios"),
    cross_packages=("gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"),
    hardware=("-M", "q35,mem-merge=off", "-cpu", "max"),
    console="ttyS0",
)
ARM64 = Architecture(
    name="arm64",
    machine="aarch64",
    triplet="aarch64-linux-gnu",
    loader="usr/lib/ld-linux-aarch64.so.1",
    qemu="qemu-system-aarch64",
    packages=("qemu-system-arm",),
    cross_packages=("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"),
    # It can do pages of 16 KiB, unlike cortex-a72. `max` can too, but it authenticates pointers,
    # which costs three times as much when it is emulated.
    hardware=("-M", "virt,mem-merge=off", "-cpu", "neoverse-n1"),
    console="ttyAMA0",
)

ARCHITECTURES = {each.machine: each for each in (AMD64, ARM64)}


def host_architecture() -> Architecture | None:
    """This machine's, None where Debian packages of neither run."""
    return ARCHITECTURES.get(platform.machine())


@dataclass(frozen=True)
class Kernel:
    """A kernel that Debian builds.

    Attributes:
        name: What people call it here.
        architecture: What it runs on.
        suites: Where it comes from; of several, the newest version is taken.
        package: Depends on the newest image; the image's own name has its version in it.
    """

    name: str
    architecture: Architecture
    suites: tuple[str, ...]
    package: str


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("6.1", AMD64, ("bookworm", "bookworm-security"), "linux-image-cloud-amd64"),
        # Not that of bookworm-backports, which crashes in emulation now and then.
        Kernel("6.12", AMD64, ("trixie", "trixie-security"), "linux-image-cloud-amd64"),
        Kernel("7", AMD64, ("sid",), "linux-image-cloud-amd64"),
        Kernel("aarch64-6.12", ARM64, ("trixie", "trixie-security"), "linux-image-cloud-arm64"),
        Kernel("aarch64-7", ARM64, ("sid",), "linux-image-cloud-arm64"),
        # Not a cloud kernel, but the only one whose pages are of 16 KiB.
        Kernel("aarch64-16k", ARM64, ("trixie", "trixie-security"), "linux-image-arm64-16k"),
    )
}

ROOT_SUITES = ("trixie", "trixie-security")
"""Where the programs of every machine come from: one Python for all kernels."""

ROOT_PACKAGES = (
    "busybox-static",
    "coreutils",
    "crun",
    "dash",
    "mawk",
    "mount",
    "procps",
    "python3",
    "python3-hypothesis",
    "python3-msgspec",
    "python3-prometheus-client",
    "python3-pytest",
    "python3-pytest-timeout",
    "python3-urllib3",
    "runc",
    "util-linux",
)

DISK_PACKAGES = (
    "busybox-static",
    "coreutils",
    "dash",
    "iproute2",
    "iptables",
    "kmod",
    "libseccomp2",
    "mount",
    "procps",
    "systemd",
    "systemd-sysv",
    "util-linux",
)
"""What a machine that stays up has on its disk, beside the programs it is made for."""

MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_net", "ext4"),
    *("overlay", "veth", "bridge", "br_netfilter"),
    *("nf_conntrack", "nf_nat", "nft_compat", "nft_chain_nat", "nft_reject_ipv4"),
    *("ipt_REJECT", "xt_MASQUERADE", "xt_REDIRECT", "xt_addrtype", "xt_comment", "xt_conntrack"),
    *("xt_limit", "xt_mark", "xt_multiport", "xt_nat", "xt_recent", "xt_set", "xt_statistic"),
    *("xt_tcpudp",),
)
"""Its hardware, and what containers, a bridge for them and kube-proxy need of a kernel."""
