from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"


def documents(file: Path) -> list[dict[str, Any]]:
    """The objects of a file."""
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def test_the_full_example_has_every_field() -> None:
    """Whoever starts from it must see all there is."""
    (policy,) = documents(EXAMPLES / "ksmpolicy-full.yaml")
    (crd,) = documents(REPOSITORY / "crds" / "ksmpolicies.yaml")
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

    def missing(schema: dict[str, Any], given: dict[str, Any], path: str) -> list[str]:
        found = []
        for name, field in schema.get("properties", {}).items():
            if name not in given:
                found.append(f"{path}.{name}")
            elif isinstance(given[name], dict):
                found += missing(field, given[name], f"{path}.{name}")
        return found

    allowed = {
        "spec.namespaces",  # instead of namespaceSelector
        "spec.namespaceSelector.matchExpressions",
        "spec.podSelector.matchLabels",
        "spec.nodeSelector.matchExpressions",
        "spec.ksmd.pagesToScan",  # only with Fixed
        "spec.ksmd.sleepMilliseconds",
    }
    assert set(missing(schema, policy["spec"], "spec")) == allowed
