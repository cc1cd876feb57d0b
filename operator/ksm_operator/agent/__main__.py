"""The command ``ksm-agent``."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ksm_operator.agent import http, logs, memory
from ksm_operator.agent.agent import Agent
from ksm_operator.agent.client import Access, ApiError, Client
from ksm_operator.agent.host import Host, Obstacle, boot_id, open_host
from ksm_operator.agent.identity import Identity
from ksm_operator.agent.metrics import Metrics
from ksm_operator.agent.state import StateError, load
from ksm_operator.kernel import AgentLock

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("ksm_operator.agent")

STATE_DIRECTORY = Path("/run/ksm-operator")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent until SIGTERM; return its exit status."""
    memory.keep_one_heap()
    options = _parse(arguments)
    logs.configure(options.log_level)
    faulthandler.enable()  # an agent that crashes below Python says where
    try:
        return run(options)
    except (ApiError, StateError, OSError) as error:
        log.error("the agent cannot run", extra={"error": str(error)})  # noqa: TRY400 - the message says it all
        return 1


def run(options: argparse.Namespace) -> int:
    """Run with parsed options.

    Raises:
        ApiError: the agent does not know how to reach the API server.
        StateError: what an earlier agent left cannot be understood.
        OSError: the port is taken, or the state directory cannot be used.
    """
    access = (
        Access(options.server, options.token_file, options.ca_file)
        if options.server
        else Access.in_cluster()
    )
    lock = AgentLock(options.state_dir / "agent.lock")
    if not lock.acquire():
        log.error("another agent or ksm-node holds the lock", extra={"path": str(lock.path)})
        return 1
    host: Host | Obstacle
    try:
        host = open_host()
    except Obstacle as obstacle:
        log.error("nothing can be done on this node", extra={"why": str(obstacle)})  # noqa: TRY400 - as above
        host = obstacle
    agent_version = _version()
    metrics = Metrics(agent_version, per_container=options.container_metrics)
    if isinstance(host, Host):
        host.tracer.on_answer = metrics.visits.count
    path = options.state_dir / "state.json"
    identity = Identity(options.node, options.namespace, path, agent_version)
    client = Client(access)
    agent = Agent(identity, client, host, load(path, boot_id()), metrics)

    def stop(_number: int, _frame: object) -> None:
        agent.stop()  # and nothing else: the signal may have come in the middle of a log line

    threading.excepthook = _end_with_thread
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    gate = None if options.open_metrics else http.gate(client)
    http.serve(options.http_port, metrics, agent.silent_for, gate)
    log.info("started", extra={"node": options.node, "version": agent_version})
    memory.settle()
    agent.run()
    if isinstance(host, Host):
        host.tracer.close()
    lock.release()
    return 0


def _end_with_thread(failure: threading.ExceptHookArgs) -> None:
    """An agent without one of its threads is deaf: end, so that the next one resumes."""
    log.critical(
        "a thread failed; ending",
        extra={"name_of_thread": failure.thread.name if failure.thread else ""},
        exc_info=failure.exc_value,
    )
    os._exit(1)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ksm-agent",
        description="Enrols the pods of one node for kernel samepage merging, as its KSMNode says. "
        "Runs as root on the node, in the host's pid namespace.",
    )
    parser.add_argument(
        "--node",
        default=os.environ.get("NODE_NAME"),
        required="NODE_NAME" not in os.environ,
        help="the node's name (NODE_NAME)",
    )
    parser.add_argument(
        "--namespace",
        default=os.environ.get("POD_NAMESPACE", ""),
        help="the operator's own namespace, never selected unless named (POD_NAMESPACE)",
    )
    parser.add_argument("--state-dir", type=Path, default=STATE_DIRECTORY)
    parser.add_argument("--http-port", type=int, default=8080, help="/metrics and /healthz")
    parser.add_argument(
        "--container-metrics",
        action="store_true",
        help="series for each container, named by namespace and pod",
    )
    parser.add_argument(
        "--open-metrics",
        action="store_true",
        help="answer /metrics to everybody, not only to accounts that the API server lets",
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info"
    )
    outside = parser.add_argument_group("outside of a pod, for example on the node itself")
    outside.add_argument("--server", default="", help="URL of the API server")
    outside.add_argument("--token-file", type=Path, help="bearer token, read for every request")
    outside.add_argument("--ca-file", type=Path, help="CA of the API server's certificate")
    options = parser.parse_args(arguments)
    if options.server and not (options.token_file and options.ca_file):
        parser.error("--server needs --token-file and --ca-file")
    return options


def _version() -> str:
    try:
        return version("ksm-operator")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
