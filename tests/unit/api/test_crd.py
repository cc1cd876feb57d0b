from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ksm_operator.api import KSMNode, KSMPolicySpec, NodeReason, PolicyReason
from ksm_operator.api._crd import crds
from ksm_operator.api._policy_status import KSMPolicyStatus
from ksm_operator.api.generate import rendered

REPOSITORY = Path(__file__).resolve().parents[3]
SCHEMAS = {
    plural: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for plural, crd in crds().items()
}


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema below this one, with its path."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from fields(part, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from fields(schema[keyword], f"{path}[]")


ALL = [
    pytest.param(path, schema, id=path)
    for plural, properties in SCHEMAS.items()
    for part in ("spec", "status")
    for path, schema in fields(properties[part], f"{plural}.{part}")
]


@pytest.mark.parametrize("path", sorted(rendered()))
def test_generated_files_are_current(path: str) -> None:
    """The models are the one source: `make generate` was forgotten when this fails."""
    assert (REPOSITORY / path).read_text() == rendered()[path]


@pytest.mark.parametrize("path", [path for path in sorted(rendered()) if path.startswith("crds/")])
def test_plain_crds_are_yaml_and_the_charts_are_kept(path: str) -> None:
    """An uninstall must not delete the users' policies with the CRDs."""
    plain = yaml.safe_load((REPOSITORY / path).read_text())
    plural = plain["spec"]["names"]["plural"]
    assert plain == crds()[plural]
    chart = (REPOSITORY / f"helm/ksm-operator/templates/crd-{plural}.yaml").read_text()
    template = "\n".join(line for line in chart.splitlines() if not line.startswith("{{"))
    kept = yaml.safe_load(template)
    assert kept["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert kept == plain


@pytest.mark.parametrize(("path", "schema"), ALL)
def test_schema_is_structural(path: str, schema: dict[str, Any]) -> None:
    """The API server refuses anything else, and only when somebody installs it."""
    assert not {"$ref", "anyOf", "oneOf", "allOf", "$defs", "title", "const"} & schema.keys()
    assert schema.get("type") or schema.get("x-kubernetes-int-or-string")


@pytest.mark.parametrize(("path", "schema"), ALL)
def test_field_has_a_description(path: str, schema: dict[str, Any]) -> None:
    """`kubectl explain` is the documentation that is always at hand."""
    if not path.endswith("[]"):
        assert schema.get("description"), path


@pytest.mark.parametrize(("path", "schema"), ALL)
def test_list_is_bounded(path: str, schema: dict[str, Any]) -> None:
    """CEL rules over unbounded lists are refused for their cost, and objects must stay small."""
    if schema.get("type") == "array":
        assert "maxItems" in schema
    if schema.get("type") == "object" and "additionalProperties" in schema:
        assert "maxProperties" in schema


@pytest.mark.parametrize(("path", "schema"), ALL)
def test_status_has_no_defaults(path: str, schema: dict[str, Any]) -> None:
    """A default would say "0 pods" where nobody has looked yet; but for that nobody has."""
    if ".status" in path:
        (ready,) = schema.get("default", {}).get("conditions", [None])
        assert ready is None or (ready["type"], ready["status"]) == ("Ready", "Unknown")
        assert not schema.get("default", {}).keys() - {"conditions"}


def test_a_policy_that_nobody_has_seen_is_not_finished() -> None:
    """Helm looks at once; an object without conditions passes for done."""
    default = SCHEMAS["ksmpolicies"]["status"]["default"]
    assert KSMPolicyStatus.model_validate(default).conditions[0].reason == PolicyReason.PENDING


@pytest.mark.parametrize(("path", "schema"), ALL)
def test_enums_are_pascal_case(path: str, schema: dict[str, Any]) -> None:
    """Renaming a value later needs a conversion webhook."""
    assert all(value[:1].isupper() and value.isalnum() for value in schema.get("enum", ()))


@pytest.mark.parametrize("reason", [*NodeReason, *PolicyReason])
def test_reasons_are_words(reason: str) -> None:
    """The API conventions ask for one CamelCase word, and the schema for 64 characters."""
    assert reason.isalnum()
    assert reason[0].isupper()
    assert len(reason) <= 64


def test_models_fill_in_what_the_schema_defaults() -> None:
    """Controller and API server must agree on what an absent field means."""
    properties = SCHEMAS["ksmpolicies"]["spec"]["properties"]
    selector = {"matchLabels": {"ksm": "web"}}
    spec = KSMPolicySpec.model_validate({"namespaceSelector": selector}).to_api()
    for path, schema in fields(SCHEMAS["ksmpolicies"]["spec"], ""):
        if "default" not in schema or isinstance(schema["default"], dict):
            continue
        value: Any = spec
        for name in path.strip(".").split("."):
            value = value[name]
        assert value == schema["default"], path
    assert {"priority", "mode", "enrollment", "ksmd"} <= properties.keys()


def test_empty_ksmnode_says_released() -> None:
    """Whoever creates a KSMNode by hand must not start merging by it."""
    assert KSMNode.model_validate({"metadata": {}}).spec.desired_state == "Released"
