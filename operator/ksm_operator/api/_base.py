"""Names of the API group and the base of its models."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP: Final = "ksm-operator.dev"
VERSION: Final = "v1alpha1"
FINALIZER: Final = f"{GROUP}/release"
"""The one finalizer, on KSMPolicy only: its nodes give their merged pages back first."""
MERGE_LABEL: Final = f"{GROUP}/merge"
"""On a pod or namespace: ``enabled`` consents, ``disabled`` opts out whatever a policy says.

On a node: ``disabled`` takes it out, whatever policies, namespaces and pods say.
"""
AGENT_LABEL: Final = "ksm-operator.node-restriction.kubernetes.io/agent"
"""On a node: ``true`` places the agent; kubelets may not set labels of this prefix."""
_DNS_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
LABEL_SYNTAX: Final = (
    f"^({_DNS_LABEL}([.]{_DNS_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
)
"""A label key: an optional DNS prefix and a name of at most 63 characters."""
LABEL_VALUE_SYNTAX: Final = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
"""A label value; its length is bounded beside it."""


class Model(BaseModel):
    """A part of the API: camelCase outside, immutable, tolerant of newer fields."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )

    def to_api(self) -> dict[str, Any]:
        """Return the JSON form that the API server takes: camelCase, without what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def rule(expression: str, message: str, *, field_path: str | None = None) -> dict[str, str]:
    """Return one CEL validation rule; the message tells the user what to write instead."""
    described = {"rule": expression, "message": message}
    return described if field_path is None else {**described, "fieldPath": field_path}


def cel(*rules: dict[str, str], **extra: Any) -> dict[str, Any]:
    """Return the JSON schema additions that carry CEL rules and other Kubernetes keywords."""
    return {"x-kubernetes-validations": list(rules), **extra}


def percent_rule(name: str, example: int) -> dict[str, Any]:
    """Return the rule for a percentage; a plain `maximum` would answer without an example."""
    return cel(
        rule(
            "self >= 0 && self <= 100",
            f"{name} is a percentage: write a whole number from 0 to 100, for example {example}",
        )
    )


NamespaceName = Annotated[str, Field(max_length=63)]
