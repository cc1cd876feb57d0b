"""Every example is taken by the real API server, to the last field."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.command import REPOSITORY, Kubectl
from cluster.operator_release import OF_TESTS

EXAMPLES = REPOSITORY / "examples"
NAMESPACE = "ksm-test-examples"


def documents(file: Path) -> list[dict[str, Any]]:
    """The objects of an example."""
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def test_there_are_examples() -> None:
    """An empty list would make the test below pass without looking at anything."""
    assert len(list(EXAMPLES.glob("*.yaml"))) >= 4


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
@pytest.mark.usefixtures("operator_installed")
def test_the_api_server_takes_an_example(kubectl: Kubectl, file: Path) -> None:
    """Unknown fields are refused here, as kubectl does by default for a user."""
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {OF_TESTS: "true"}},
        }
    )
    for document in documents(file):
        if "namespace" in document["metadata"]:
            # Its own namespace is not there: a dry run makes none.
            document["metadata"]["namespace"] = NAMESPACE
        kubectl(
            *("apply", "--dry-run=server", "--validate=strict", "-f", "-"),
            input=json.dumps(document),
        )
