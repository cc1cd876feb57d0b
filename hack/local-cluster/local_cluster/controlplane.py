"""The control plane: etcd, API server, controller manager and scheduler, in the host's network."""

import http
import json
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from local_cluster import certificates, layout
from local_cluster.certificates import Kubeconfig
from local_cluster.components import program
from local_cluster.errors import LocalClusterError
from local_cluster.processes import Service, require_alive

AUDIT_LOG = layout.STATE / "logs" / "audit.log"
AUDIT_POLICY = layout.STATE / "audit-policy.json"
ETCD_SOCKET = layout.RUN / "etcd.sock"

CONTROLLER_MANAGER_CONFIG = Kubeconfig(
    certificates.CONTROLLER_MANAGER, layout.STATE / "kubeconfigs" / "kube-controller-manager"
)
SCHEDULER_CONFIG = Kubeconfig(
    certificates.SCHEDULER, layout.STATE / "kubeconfigs" / "kube-scheduler"
)
ADMIN_CONFIG = Kubeconfig(certificates.ADMIN, layout.admin_kubeconfig())


def etcd() -> Service:
    """Etcd on sockets that only root can reach: nobody reads the cluster's secrets around RBAC."""
    clients, peers = f"unix://{ETCD_SOCKET}", f"unix://{layout.RUN}/etcd-peers.sock"
    return Service(
        "etcd",
        (
            str(program("etcd")),
            f"--name={layout.NAME}",
            f"--data-dir={layout.STATE}/etcd",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster={layout.NAME}={peers}",
            # A cluster to try things on: it need not survive a power cut.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ),
    )


def api_server() -> Service:
    """The API server, reachable from this machine and its nodes only."""
    pki = certificates
    return Service(
        "kube-apiserver",
        (
            str(program("kube-apiserver")),
            f"--bind-address={layout.HOST_ADDRESS}",
            f"--advertise-address={layout.HOST_ADDRESS}",
            f"--secure-port={layout.API_PORT}",
            f"--etcd-servers=unix://{ETCD_SOCKET}",
            f"--service-cluster-ip-range={layout.SERVICE_PREFIX}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            "--kubelet-preferred-address-types=InternalIP",
            f"--client-ca-file={pki.AUTHORITY}",
            f"--tls-cert-file={pki.API_SERVER.certificate}",
            f"--tls-private-key-file={pki.API_SERVER.key}",
            f"--kubelet-certificate-authority={pki.AUTHORITY}",
            f"--kubelet-client-certificate={pki.API_SERVER_TO_KUBELET.certificate}",
            f"--kubelet-client-key={pki.API_SERVER_TO_KUBELET.key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki.SERVICE_ACCOUNT_KEY}",
            f"--service-account-signing-key-file={pki.SERVICE_ACCOUNT_KEY}",
            f"--audit-policy-file={AUDIT_POLICY}",
            f"--audit-log-path={AUDIT_LOG}",
            "--audit-log-maxsize=100",
            "--audit-log-maxbackup=3",
            "--profiling=false",
        ),
    )


def controller_manager(*options: str) -> Service:
    """The controller manager; it serves nothing.

    Args:
        options: What differs from a cluster's own, such as which controllers run.
    """
    pki = certificates
    config = CONTROLLER_MANAGER_CONFIG.file
    return Service(
        "kube-controller-manager",
        (
            str(program("kube-controller-manager")),
            f"--kubeconfig={config}",
            "--secure-port=0",
            "--leader-elect=false",
            "--use-service-account-credentials",
            f"--root-ca-file={pki.AUTHORITY}",
            f"--service-account-private-key-file={pki.SERVICE_ACCOUNT_KEY}",
            f"--cluster-signing-cert-file={pki.AUTHORITY}",
            f"--cluster-signing-key-file={pki.AUTHORITY_KEY}",
            f"--cluster-cidr={layout.POD_PREFIX}",
            f"--service-cluster-ip-range={layout.SERVICE_PREFIX}",
            f"--flex-volume-plugin-dir={layout.STATE}/volume-plugins",
            "--profiling=false",
            *options,
        ),
    )


def scheduler() -> Service:
    """The scheduler; it serves nothing."""
    config = SCHEDULER_CONFIG.file
    return Service(
        "kube-scheduler",
        (
            str(program("kube-scheduler")),
            f"--kubeconfig={config}",
            "--secure-port=0",
            "--leader-elect=false",
            "--profiling=false",
        ),
    )


def write_configuration() -> None:
    """Write what the control plane reads at its start."""
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }
    (layout.STATE / "logs").mkdir(parents=True, exist_ok=True)
    AUDIT_POLICY.write_text(json.dumps(policy) + "\n")
    for config in (ADMIN_CONFIG, CONTROLLER_MANAGER_CONFIG, SCHEDULER_CONFIG):
        config.write()


def ask(path: str, timeout: float = 5.0) -> tuple[int, bytes]:
    """GET a path of the API server as admin.

    Returns:
        Status and body; status 0 when nobody answers.
    """
    try:
        context = ssl.create_default_context(cafile=str(certificates.AUTHORITY))
        context.load_cert_chain(certificates.ADMIN.certificate, certificates.ADMIN.key)
        # Whatever proxy the shell is set to, the cluster is on this machine.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        url = f"https://{layout.HOST_ADDRESS}:{layout.API_PORT}{path}"
        with opener.open(url, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def is_ready() -> bool:
    """Whether the API server says it is ready and has made its first objects."""
    return answers("/readyz") and answers("/api/v1/namespaces/default")


def answers(path: str) -> bool:
    """Whether the API server gives us this path."""
    return ask(path)[0] == http.HTTPStatus.OK


def wait_for_socket(service: Service, pid: int, socket: Path, timeout: float) -> None:
    """Wait until a service has made its socket.

    Raises:
        LocalClusterError: It ended, or took too long.
    """
    deadline = time.monotonic() + timeout
    while not socket.is_socket():
        require_alive(service, pid)
        if time.monotonic() > deadline:
            raise LocalClusterError(f"{service.name} made no {socket}; see {service.log}")
        time.sleep(0.05)


def wait_until_ready(service: Service, pid: int, timeout: float) -> None:
    """Wait for the API server.

    Raises:
        LocalClusterError: It ended, or took too long.
    """
    deadline = time.monotonic() + timeout
    while not is_ready():
        require_alive(service, pid)
        if time.monotonic() > deadline:
            status, body = ask("/readyz?verbose")
            reason = body.decode(errors="replace") if status else "it does not answer"
            raise LocalClusterError(
                f"The API server is not ready after {timeout:.0f} s: {reason}\nSee {service.log}"
            )
        time.sleep(0.2)
