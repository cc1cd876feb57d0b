"""buildah on a base made of Debian packages."""

import hashlib
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from local_cluster import layout, prerequisites
from local_cluster.errors import LocalClusterError
from local_cluster.prerequisites import Need, which

Say = Callable[[str], None]

BASE = "localhost/ksm-operator-base:trixie"
SUITE = "trixie"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
POLICY = Path(__file__).resolve().parent / "policy.json"
CERTIFICATES = Path("/etc/ssl/certs")

PASSED_ON = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""What a machine sets to reach its package index; the image keeps none of it."""

NEEDS = (
    Need("buildah", lambda: which("buildah") is not None, ("buildah",)),
    Need(
        "mmdebstrap",
        lambda: which("mmdebstrap") is not None,
        ("mmdebstrap", "debian-archive-keyring"),
    ),
)


def bootstrap_command(target: Path) -> list[str]:
    """The command that makes the base's root file system."""
    excluded = [
        f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale", "info")
    ]
    return [
        which("mmdebstrap") or "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        *excluded,
        SUITE,
        str(target),
    ]


def build_arguments(environment: Mapping[str, str]) -> list[str]:
    """What of this machine's package settings the build gets to see."""
    found = [f"--build-arg={name}={environment[name]}" for name in PASSED_ON if name in environment]
    bundle = CERTIFICATES / "ca-certificates.crt"
    if bundle.exists():
        # The machine's own authorities: where a company's proxy signs, the build trusts it too.
        found += [
            f"--volume={CERTIFICATES}:{CERTIFICATES}:ro",
            f"--build-arg=SSL_CERT_FILE={bundle}",
        ]
    return found


@dataclass(frozen=True)
class Build:
    """One image.

    Attributes:
        name: Its full name.
        context: The folder its Dockerfile copies from.
        dockerfile: The Dockerfile; it takes its base as `ARG BASE`.
        base: A public base image, None for the bootstrapped one.
    """

    name: str
    context: Path
    dockerfile: Path
    base: str | None = None

    @property
    def archive(self) -> Path:
        """Where the finished image is kept."""
        name = self.name.rpartition("/")[2].replace(":", "-")
        return layout.user_cache() / "images" / f"{name}.tar"

    def run(self, say: Say) -> Path:
        """Build it and write the archive.

        Raises:
            LocalClusterError: A tool is missing or the build failed.
        """
        prerequisites.provide(NEEDS, say)
        base = self.base or _bootstrapped(say)
        _buildah(
            *("build", "--isolation", "chroot", "--network", "host", "--layers", "--quiet"),
            # Docker's format leaves out nothing we use; OCI has no health checks to lose.
            *("--format", "oci"),
            *build_arguments(os.environ),
            *("--build-arg", f"BASE={base}", "--tag", self.name),
            *("--file", str(self.dockerfile), str(self.context)),
        )
        self.archive.parent.mkdir(parents=True, exist_ok=True)
        draft = self.archive.with_suffix(".new")
        draft.unlink(missing_ok=True)
        _buildah("push", "--quiet", self.name, f"oci-archive:{draft}:{self.name}")
        draft.rename(self.archive)
        return self.archive


def _bootstrapped(say: Say) -> str:
    """The base image, made if this recipe's is not in the store yet."""
    recipe = hashlib.sha256("\0".join(bootstrap_command(Path("root.tar"))).encode())
    tagged = f"{BASE}-{recipe.hexdigest()[:12]}"
    if _try_buildah("inspect", "--type", "image", tagged).returncode == 0:
        return tagged
    say("Bootstrapping the base image from Debian packages, about 30 s, once ...")
    work = layout.user_cache() / "base"
    work.mkdir(parents=True, exist_ok=True)
    tree = work / f"{SUITE}.tar"
    tree.unlink(missing_ok=True)
    answer = subprocess.run(
        bootstrap_command(tree),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        tail = "\n  ".join(answer.stderr.splitlines()[-12:])
        raise LocalClusterError(f"mmdebstrap could not make the base image:\n  {tail}")
    container = _buildah("from", "scratch").strip()
    try:
        _buildah("add", "--quiet", container, str(tree), "/")
        _buildah("config", "--cmd", "python3", container)
        _buildah("commit", "--quiet", "--format", "oci", container, tagged)
    finally:
        _buildah("rm", container)
    _buildah("tag", tagged, BASE)
    tree.unlink()
    return tagged


def _try_buildah(*arguments: str) -> "subprocess.CompletedProcess[str]":
    store = layout.user_cache() / "containers"
    store.mkdir(parents=True, exist_ok=True)
    settings = store / "containers.conf"
    # Else buildah makes folders in /etc for networks that these builds never use.
    settings.write_text(f'[network]\nnetwork_config_dir = "{store}/networks"\n')
    verb, *rest = arguments
    policy = ["--signature-policy", str(POLICY)] if verb in ("build", "push", "commit") else []
    return subprocess.run(
        [
            which("buildah") or "buildah",
            *("--root", str(store), "--runroot", "/run/ksm-operator-images"),
            verb,
            *policy,
            *rest,
        ],
        env={**os.environ, "CONTAINERS_CONF": str(settings)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _buildah(*arguments: str) -> str:
    answer = _try_buildah(*arguments)
    if answer.returncode != 0:
        tail = "\n  ".join((answer.stdout + answer.stderr).splitlines()[-25:])
        raise LocalClusterError(f"buildah {arguments[0]} failed:\n  {tail}")
    return answer.stdout
