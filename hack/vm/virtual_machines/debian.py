"""Debian packages of any suite and architecture, fetched by apt without touching /etc/apt."""

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from local_cluster.errors import LocalClusterError
from local_cluster.prerequisites import Need, which

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SECURITY = "-security"

NEEDS = (
    Need("apt-get", lambda: which("apt-get") is not None, ("apt",)),
    Need("dpkg-deb", lambda: which("dpkg-deb") is not None, ("dpkg",)),
    Need("Debian's signing keys", KEYRING.exists, ("debian-archive-keyring",)),
)


@dataclass(frozen=True)
class Mirrors:
    """Where packages come from.

    Attributes:
        main: Of the suites themselves.
        security: Of their security updates.
    """

    main: str
    security: str

    def of(self, suite: str) -> str:
        """The one that has this suite."""
        return self.security if suite.endswith(SECURITY) else self.main


def parse_mirrors(addresses: str) -> Mirrors:
    """The machine's own mirrors, from `apt-get update --print-uris`.

    Args:
        addresses: Lines that begin with the quoted address of a suite's release file.

    Raises:
        LocalClusterError: None of them is Debian's.
    """
    found: dict[str, str] = {}
    for line in addresses.splitlines():
        mirror, _, rest = line.removeprefix("'").partition("/dists/")
        suite = rest.partition("/")[0]
        kind = "security" if suite.endswith(SECURITY) else "main"
        # Other repositories have a suite of the same name, and none of Debian's kernels.
        if mirror.rpartition("/")[2] == ("debian-security" if kind == "security" else "debian"):
            found.setdefault(kind, mirror)
    if "main" not in found:
        raise LocalClusterError(
            "apt on this machine knows no Debian mirror, and the guests' kernels are Debian's.\n"
            "Add one for any suite to /etc/apt/sources.list.d, see sources.list(5)."
        )
    # Mirrors have both side by side.
    return Mirrors(found["main"], found.get("security", f"{found['main']}-security"))


def machine_mirrors() -> Mirrors:
    """What this machine's apt is set up to use, whether or not its lists were ever fetched.

    Raises:
        LocalClusterError: It has no mirror of Debian's.
    """
    answer = subprocess.run(
        ["apt-get", "update", "--print-uris"], capture_output=True, text=True, check=False
    )
    return parse_mirrors(answer.stdout)


class Apt:
    """Some suites of one architecture, with lists and a cache of their own.

    The machine's apt settings (a proxy, say) hold here too; its sources and packages do not.
    """

    def __init__(
        self, folder: Path, architecture: str, suites: Iterable[str], mirrors: Mirrors
    ) -> None:
        """Fetch the lists.

        Args:
            folder: Where it keeps everything; it need not exist.
            architecture: As Debian calls it.
            suites: Their names.
            mirrors: Where they are.

        Raises:
            LocalClusterError: apt-get could not.
        """
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "cache" / "archives" / "partial").mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(
            "".join(
                f"deb [signed-by={KEYRING}] {mirrors.of(suite)} {suite} main\n" for suite in suites
            )
        )
        self._config = folder / "apt.conf"
        self._config.write_text(
            f"""Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"""
        )
        self._archives = folder / "cache" / "archives"
        self._run("apt-get", "update", "-q", "--error-on=any")

    def depends(self, package: str) -> list[str]:
        """What a package's newest version depends on."""
        lines = self._run("apt-cache", "depends", package).splitlines()
        return [line.split()[1] for line in lines if line.strip().startswith("Depends:")]

    def fetch(self, packages: Iterable[str]) -> list[Path]:
        """The archives of these packages alone, checked against the suite's signature."""
        return self._fetch("download", *packages, cwd=self._archives)

    def fetch_with_dependencies(self, packages: Iterable[str]) -> list[Path]:
        """The archives of these packages and of everything that they need."""
        return self._fetch(
            "install", "-y", "--no-install-recommends", "--download-only", *packages, cwd=None
        )

    def _fetch(self, *arguments: str, cwd: Path | None) -> list[Path]:
        before = set(self._archives.glob("*.deb"))
        self._run("apt-get", "-q", *arguments, cwd=cwd)
        return sorted(set(self._archives.glob("*.deb")) - before)

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        answer = subprocess.run(
            command,
            env={**os.environ, "APT_CONFIG": str(self._config), "LC_ALL": "C"},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            tail = "\n  ".join((answer.stdout + answer.stderr).splitlines()[-8:])
            raise LocalClusterError(
                f"`{' '.join(command[:3])} ...` could not fetch Debian packages:\n  {tail}\n"
                "Look whether this machine reaches its package mirror, and try again."
            )
        return answer.stdout


def unpack(archives: Iterable[Path], root: Path) -> None:
    """Unpack packages over each other; their scripts are not run."""
    for archive in archives:
        subprocess.run(["dpkg-deb", "-x", str(archive), str(root)], check=True)
