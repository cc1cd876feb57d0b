"""The command ``ksm-controller``."""

import argparse
import os
import sys
from pathlib import Path

from kubernetes.config import ConfigException

from ksm_operator.controller import log
from ksm_operator.controller.check import check
from ksm_operator.controller.cluster import Cluster
from ksm_operator.controller.run import Options, run
from ksm_operator.controller.uninstall import uninstall

_NAME = "ksm-operator"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ksm-controller", description="The controller of ksm-operator."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--namespace",
        default=os.environ.get("POD_NAMESPACE", _NAME),
        help="the operator's own namespace (default: POD_NAMESPACE, else %(default)s)",
    )
    common.add_argument(
        "--lease", default=f"{_NAME}-controller", help="the Lease's name (default: %(default)s)"
    )
    common.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error")
    )

    leading = argparse.ArgumentParser(add_help=False)
    leading.add_argument(
        "--release", default="", help="the Helm release that a Lease made anew is part of"
    )

    running = commands.add_parser("run", parents=[common, leading], help="reconcile until SIGTERM")
    running.add_argument(
        "--deployment",
        default=f"{_NAME}-controller",
        help="the controller's Deployment, which owns the agents (default: %(default)s)",
    )
    running.add_argument(
        "--agent-template",
        type=Path,
        help="the agent DaemonSet as YAML; without it none is applied",
    )
    running.add_argument(
        "--http-port", type=int, default=8080, help="of the probes and metrics; 0 for none"
    )
    running.add_argument(
        "--open-metrics",
        action="store_true",
        help="answer /metrics to everybody, not only to accounts that the API server lets",
    )

    removing = commands.add_parser(
        "uninstall",
        parents=[common, leading],
        help="release every node, for the chart's pre-delete job",
    )
    removing.add_argument(
        "--timeout",
        type=float,
        default=240.0,
        help="seconds to wait for the nodes (default: %(default)s)",
    )

    checking = commands.add_parser("check", parents=[common], help="check a real installation")
    checking.add_argument(
        "--daemonset",
        default=f"{_NAME}-agent",
        help="the agent DaemonSet's name (default: %(default)s)",
    )
    checking.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        help="seconds in which every check must have passed (default: %(default)s)",
    )
    return parser


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    arguments = _parser().parse_args()
    log.configure(arguments.log_level)
    try:
        if arguments.command == "run":
            options = Options(
                namespace=arguments.namespace,
                lease=arguments.lease,
                deployment=arguments.deployment,
                agent_template=arguments.agent_template,
                http_port=arguments.http_port,
                open_metrics=arguments.open_metrics,
                release=arguments.release,
            )
            code = run(options)
        elif arguments.command == "uninstall":
            code = uninstall(
                Cluster.connect(),
                arguments.namespace,
                arguments.lease,
                arguments.timeout,
                arguments.release,
            )
        else:
            code = check(
                Cluster.connect(),
                arguments.namespace,
                arguments.lease,
                arguments.daemonset,
                arguments.timeout,
            )
    except ConfigException as error:
        sys.exit(f"ksm-controller: no cluster: {error}; run it in a pod, or set KUBECONFIG")
    sys.exit(code)


if __name__ == "__main__":
    main()
