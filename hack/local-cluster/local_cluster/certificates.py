"""The cluster's certificates and kubeconfigs, made by openssl."""

import base64
import json
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from local_cluster import layout
from local_cluster.errors import LocalClusterError
from local_cluster.layout import Node

DAYS = 3650
"""The cluster's certificates outlive every cluster."""

FOLDER = layout.STATE / "pki"


@dataclass(frozen=True)
class Identity:
    """A certificate that the cluster's authority signs.

    Attributes:
        name: Its file name.
        user: Common name: the Kubernetes user.
        groups: Organizations: the Kubernetes groups.
        addresses: IP addresses it may serve.
        hosts: DNS names it may serve.
    """

    name: str
    user: str
    groups: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    @property
    def certificate(self) -> Path:
        """The certificate file."""
        return FOLDER / f"{self.name}.crt"

    @property
    def key(self) -> Path:
        """The private key file."""
        return FOLDER / f"{self.name}.key"

    def subject(self) -> str:
        """The subject as openssl wants it."""
        return "".join(f"/O={group}" for group in self.groups) + f"/CN={self.user}"

    def extensions(self) -> str:
        """The X.509 extensions, in openssl's file format."""
        names = [f"IP:{address}" for address in self.addresses]
        names += [f"DNS:{host}" for host in self.hosts]
        lines = [
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature,keyEncipherment",
            "extendedKeyUsage=clientAuth,serverAuth",
        ]
        if names:
            lines.append("subjectAltName=" + ",".join(names))
        return "\n".join(lines) + "\n"


AUTHORITY = FOLDER / "ca.crt"
AUTHORITY_KEY = FOLDER / "ca.key"
SERVICE_ACCOUNT_KEY = FOLDER / "service-accounts.key"
API_SERVER = Identity(
    "kube-apiserver",
    "kube-apiserver",
    addresses=("127.0.0.1", layout.HOST_ADDRESS, layout.API_SERVICE_ADDRESS),
    hosts=("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
)
API_SERVER_TO_KUBELET = Identity("kubelet-client", "kube-apiserver", groups=("system:masters",))
ADMIN = Identity("admin", "admin", groups=("system:masters",))
CONTROLLER_MANAGER = Identity("kube-controller-manager", "system:kube-controller-manager")
SCHEDULER = Identity("kube-scheduler", "system:kube-scheduler")
PROXY = Identity("kube-proxy", "system:kube-proxy")


def kubelet(node: Node) -> Identity:
    """What a node's kubelet shows the API server, and serves with."""
    return Identity(
        f"kubelet-{node.name}",
        f"system:node:{node.name}",
        groups=("system:nodes",),
        addresses=(node.address,),
        hosts=(node.name,),
    )


def identities(nodes: Iterable[Node]) -> list[Identity]:
    """Every certificate of the cluster."""
    fixed = [API_SERVER, API_SERVER_TO_KUBELET, ADMIN, CONTROLLER_MANAGER, SCHEDULER, PROXY]
    return fixed + [kubelet(node) for node in nodes]


def _openssl(*arguments: str) -> None:
    answer = subprocess.run(
        ["openssl", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise LocalClusterError(f"openssl {arguments[0]} failed: {answer.stderr.strip()}")


def _new_key(file: Path) -> None:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(file))


def ensure(nodes: Iterable[Node]) -> None:
    """Make what is missing; a set that an interrupted run left half-done is completed."""
    FOLDER.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Certificates of an authority that is gone would never be accepted.
    if not (AUTHORITY.exists() and AUTHORITY_KEY.exists()):
        shutil.rmtree(FOLDER)
        FOLDER.mkdir(mode=0o700)
        with tempfile.TemporaryDirectory(dir=FOLDER) as work:
            key, certificate = Path(work) / "ca.key", Path(work) / "ca.crt"
            _new_key(key)
            _openssl(
                *("req", "-x509", "-new", "-key", str(key), "-out", str(certificate)),
                *("-days", str(DAYS), "-subj", f"/CN={layout.NAME}"),
                *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            )
            key.rename(AUTHORITY_KEY)
            certificate.rename(AUTHORITY)
    if not SERVICE_ACCOUNT_KEY.exists():
        with tempfile.TemporaryDirectory(dir=FOLDER) as work:
            key = Path(work) / "key"
            _openssl("genrsa", "-out", str(key), "2048")
            key.rename(SERVICE_ACCOUNT_KEY)
    for identity in identities(nodes):
        if not (identity.certificate.exists() and identity.key.exists()):
            _sign(identity)


def _sign(identity: Identity) -> None:
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        work = Path(folder)
        key, request, certificate = work / "key", work / "request", work / "certificate"
        extensions = work / "extensions"
        extensions.write_text(identity.extensions())
        _new_key(key)
        _openssl(
            *("req", "-new", "-key", str(key), "-subj", identity.subject(), "-out", str(request)),
        )
        _openssl(
            *("x509", "-req", "-in", str(request), "-out", str(certificate)),
            *("-CA", str(AUTHORITY), "-CAkey", str(AUTHORITY_KEY)),
            *("-days", str(DAYS), "-extfile", str(extensions)),
            *("-set_serial", f"0x{secrets.token_hex(8)}"),
        )
        key.rename(identity.key)
        certificate.rename(identity.certificate)


@dataclass(frozen=True)
class Kubeconfig:
    """A kubeconfig file for one identity."""

    identity: Identity
    file: Path
    server: str = field(default=f"https://{layout.HOST_ADDRESS}:{layout.API_PORT}")

    def render(self) -> str:
        """The file's text: JSON, which is YAML, with everything embedded."""

        def embed(file: Path) -> str:
            return base64.b64encode(file.read_bytes()).decode()

        user = {
            "client-certificate-data": embed(self.identity.certificate),
            "client-key-data": embed(self.identity.key),
        }
        cluster = {"server": self.server, "certificate-authority-data": embed(AUTHORITY)}
        name = layout.NAME
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": self.identity.user, "user": user}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": self.identity.user}}],
            "current-context": name,
        }
        return json.dumps(document, indent=2) + "\n"

    def write(self) -> None:
        """Write it for root only, whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(self.render())
        draft.rename(self.file)
