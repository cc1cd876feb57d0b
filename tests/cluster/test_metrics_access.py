"""Who reads /metrics, judged by a real API server with the rights that the chart gives."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.client import ApiClient, Configuration

from cluster.command import wait_until
from cluster.control_plane import ControlPlane
from cluster.operator_release import NAMESPACE, RELEASE
from ksm_operator.agent import http as agent
from ksm_operator.agent.client import Access, Client
from ksm_operator.agent.metrics import Metrics
from ksm_operator.controller import http as controller
from ksm_operator.controller.cluster import Cluster
from ksm_operator.serving.access import Gate
from ksm_operator.serving.server import Server

pytestmark = pytest.mark.cluster

PARTS = ("agent", "controller")


@pytest.fixture(scope="module")
def tokens(control_plane: ControlPlane) -> dict[str, str]:
    """Of an account that may read, one that may not, and one that no longer exists."""
    kubectl = control_plane.kubectl
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "monitoring"}}
    kubectl.apply(space)
    made = {}
    for name in ("reader", "late-reader", "stranger", "gone"):
        metadata = {"name": name, "namespace": "monitoring"}
        kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        made[name] = kubectl("create", "token", name, "-n", "monitoring").stdout.strip()
    kubectl("delete", "serviceaccount", "gone", "-n", "monitoring")
    kubectl(
        *("create", "clusterrolebinding", "readers", f"--clusterrole={RELEASE}-metrics-reader"),
        *("--serviceaccount=monitoring:reader", "--serviceaccount=monitoring:late-reader"),
    )
    return made


def agents(plane: ControlPlane, folder: Path) -> Gate:
    """As an agent asks."""
    made = plane.kubectl("create", "token", f"{RELEASE}-agent", "-n", NAMESPACE).stdout.strip()
    token = folder / "token"
    token.write_text(made)
    return agent.gate(Client(Access(plane.api.server, token, plane.api.authority)))


def controllers(plane: ControlPlane) -> Gate:
    """As the controller asks."""
    configuration = Configuration(host=plane.api.server)
    configuration.ssl_ca_cert = str(plane.api.authority)
    configuration.api_key["authorization"] = f"Bearer {plane.token}"
    configuration.retries = False
    return controller.gate(Cluster(ApiClient(configuration)))


@pytest.fixture(params=PARTS)
def serving(
    control_plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """What either of the two serves."""
    if request.param == "agent":
        gate = agents(control_plane, tmp_path)
        server = agent.serve(0, Metrics("1"), lambda: 0.0, gate)
    else:
        server = controller.serve(0, str, str, controllers(control_plane))
    yield server
    server.shutdown()
    server.server_close()


def get(serving: Server, path: str, token: str = "") -> tuple[int, str]:
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", serving.server_address[1], timeout=30)
    try:
        connection.request(
            "GET", path, headers={"Authorization": f"Bearer {token}"} if token else {}
        )
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_only_who_may_reads(serving: Server, tokens: dict[str, str]) -> None:
    """With the rights of the chart, to the letter: one too few and nobody would read."""
    assert get(serving, "/metrics")[0] == 401
    assert get(serving, "/metrics", "made.up.token")[0] == 401
    assert get(serving, "/metrics", tokens["gone"])[0] == 401
    code, words = get(serving, "/metrics", tokens["stranger"])
    assert code == 403
    assert "system:serviceaccount:monitoring:stranger may not get" in words

    def is_read() -> bool:
        return get(serving, "/metrics", tokens["reader"])[0] == 200

    wait_until(is_read, 30, "the account that was bound reads")
    assert "# HELP ksm_" in get(serving, "/metrics", tokens["reader"])[1]
    assert get(serving, "/healthz")[0] == 200


def test_an_api_server_that_is_down_opens_nothing(
    control_plane: ControlPlane, serving: Server, tokens: dict[str, str]
) -> None:
    """Who may, and has not been asked about yet, waits until it is back; probes go on."""
    control_plane.kill()
    try:
        assert get(serving, "/metrics", tokens["late-reader"])[0] == 503
        assert get(serving, "/metrics", tokens["stranger"])[0] == 503
        assert get(serving, "/metrics")[0] == 401
        assert get(serving, "/healthz")[0] == 200
    finally:
        control_plane.start()

    def is_read() -> bool:
        return get(serving, "/metrics", tokens["late-reader"])[0] == 200

    wait_until(is_read, 30, "the account reads again")
