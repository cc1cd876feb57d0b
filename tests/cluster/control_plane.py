"""An etcd and an API server of a test's own: to stop, to set back in time, to fill with anything.

Nothing else runs: no kubelet, no controller of Kubernetes. What it says of policies and nodes is as
real as any API server's, and neither the machine's KSM nor the local cluster is touched.
"""

import csv
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

import yaml

from cluster.api import KSM_NODES, KSM_POLICIES, Api, ApiFailure
from cluster.command import REPOSITORY, Command, Kubectl, wait_until
from cluster.operator_release import CHART, NAMESPACE, RELEASE
from cluster.pods import IMAGE

START_SECONDS: Final = 90
_KINDS: Final = frozenset(
    {
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "CustomResourceDefinition",
        "Deployment",
        "Lease",
        "Role",
        "RoleBinding",
        "ServiceAccount",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
)
"""What of the chart does something where no pod can run."""


class ControlPlane:
    """A context: both run inside of it.

    Attributes:
        api: the API server, as its administrator.
        kubectl: likewise.
        administrator: its token.
        template: the agents' DaemonSet, once the chart is installed.
        token: the controller's own account's, so that RBAC and admission hold for it; likewise.
    """

    def __init__(self, folder: Path) -> None:
        etcd, kubernetes, helm = _programs("etcd", "kubernetes", "helm")
        self.template = folder / "daemonset.yaml"
        self.token = ""
        self._folder = folder
        self._etcd_program = etcd / "etcd"
        self._api_program = kubernetes / "kube-apiserver"
        self._helm = helm / "helm"
        self.administrator = secrets.token_hex(16)
        self._port = _free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write_files()
        server = f"https://127.0.0.1:{self._port}"
        authority = folder / "certificates" / "apiserver.crt"
        self.api = Api(server, authority, self.administrator)
        kubeconfig = write_kubeconfig(folder / "admin", server, self.administrator, authority)
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "NO_PROXY": "127.0.0.1"}
        self.kubectl = Kubectl(str(kubernetes / "kubectl"), environment)

    def __enter__(self) -> Self:
        self.start_etcd()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.api.close()
        for name in list(self._processes):
            self._end(name)

    def install(self) -> None:
        """Apply what the chart has for the controller."""
        repository, _, tag = IMAGE.rpartition(":")
        values = ("--set", f"image.repository={repository}", "--set", f"image.tag={tag}")
        helm = Command(str(self._helm), dict(os.environ))
        shown = helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *values).stdout
        rendered = [one for one in yaml.safe_load_all(shown) if one]
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        wanted = [one for one in rendered if one["kind"] in _KINDS]
        self.kubectl.apply(namespace, *wanted)
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        config = self.kubectl.get("configmap", f"{RELEASE}-agent", "-n", NAMESPACE)
        self.template.write_text(config["data"]["daemonset.yaml"])
        self.token = controllers_token(self.kubectl)

    def start(self) -> None:
        """Start the API server, and wait until it is ready."""
        self._start(
            "kube-apiserver",
            str(self._api_program),
            f"--etcd-servers=unix://{self._folder}/etcd.sock",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self._folder}/certificates",
            f"--token-auth-file={self._folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._folder}/accounts.key",
            f"--service-account-signing-key-file={self._folder}/accounts.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none",
            "--allow-privileged",
            "--profiling=false",
        )
        wait_until(self._is_ready, START_SECONDS, "the API server is ready", poll=0.1)

    def kill(self) -> None:
        """Kill the API server: nobody listens any more."""
        self._end("kube-apiserver")

    def start_etcd(self) -> None:
        """Start etcd."""
        clients, peers = f"unix://{self._folder}/etcd.sock", f"unix://{self._folder}/peers.sock"
        self._start(
            "etcd",
            str(self._etcd_program),
            "--name=one",
            f"--data-dir={self._folder}/etcd",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=one={peers}",
            "--unsafe-no-fsync",
            "--log-level=error",
        )

    def save(self) -> None:
        """Keep a copy of all that etcd stores, as a backup does."""
        etcd = self._processes["etcd"]
        # What a stopped process has written is what a crash at this moment leaves: etcd reads that.
        etcd.send_signal(signal.SIGSTOP)
        try:
            shutil.rmtree(self._folder / "saved", ignore_errors=True)
            shutil.copytree(self._folder / "etcd", self._folder / "saved")
        finally:
            etcd.send_signal(signal.SIGCONT)

    def restore(self) -> None:
        """Put that copy back, as after a disaster; the API server starts anew on it."""
        self.kill()
        self._end("etcd")
        shutil.rmtree(self._folder / "etcd")
        shutil.copytree(self._folder / "saved", self._folder / "etcd")
        self.start_etcd()
        self.start()

    def _write_files(self) -> None:
        subprocess.run(
            ["openssl", "genrsa", "-out", str(self._folder / "accounts.key"), "2048"],
            check=True,
            capture_output=True,
        )
        with (self._folder / "tokens.csv").open("w", newline="") as file:
            csv.writer(file).writerow([self.administrator, "admin", "1", "system:masters"])

    def _is_ready(self) -> bool:
        process = self._processes["kube-apiserver"]
        if process.poll() is not None:
            log = (self._folder / "kube-apiserver.log").read_text()
            raise RuntimeError(f"the API server ended with {process.returncode}:\n{log[-3000:]}")
        if not self.api.authority.exists():
            return False
        try:
            self.api.get("/api/v1/namespaces/default")
            self.api.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin")
            if self.token:
                # Kinds that CRDs define come last.
                self.api.get(KSM_POLICIES)
                self.api.get(KSM_NODES)
        except (ApiFailure, ssl.SSLError, ValueError):
            return False
        return True

    def _start(self, name: str, *command: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()


def write_kubeconfig(path: Path, server: str, token: str, authority: Path | None = None) -> Path:
    """Write a kubeconfig for a server, with a token."""
    cluster: dict[str, Any] = {"server": server}
    if authority is not None:
        cluster["certificate-authority"] = str(authority)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "one", "cluster": cluster}],
        "users": [{"name": "one", "user": {"token": token}}],
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
        "current-context": "one",
    }
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    return path


def controllers_token(kubectl: Kubectl) -> str:
    """A token of the controller's own account."""
    account = f"{RELEASE}-controller"
    return kubectl("create", "token", account, "-n", NAMESPACE).stdout.strip()


def _programs(*components: str) -> list[Path]:
    """Folders of what the local cluster is made of, built if need be."""
    done = subprocess.run(
        [sys.executable, "hack/local-cluster", "build", *components],
        cwd=REPOSITORY,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [Path(line) for line in done.stdout.splitlines()]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
