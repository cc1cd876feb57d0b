"""Label selectors, bounded so that a KSMNode that carries two of them stays small."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from ksm_operator.api._base import LABEL_SYNTAX, LABEL_VALUE_SYNTAX, Model, cel, rule

SELECTOR_CHARACTERS: Final = 400
"""Most characters of all keys and values of one selector: a KSMNode carries two of them."""
LabelValue = Annotated[str, Field(max_length=63)]


class SelectorRequirement(Model):
    """One set-based requirement on a label."""

    key: Annotated[str, Field(max_length=128, description="The label's key.")]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"],
        Field(description="How the label's value relates to the values."),
    ]
    values: Annotated[
        tuple[LabelValue, ...] | None,
        Field(
            max_length=6,
            description="Required with In and NotIn, not allowed with Exists and DoesNotExist.",
        ),
    ] = None

    def admits(self, labels: Mapping[str, str]) -> bool:
        """Tell whether labels meet this requirement, as the API server would."""
        values = self.values or ()
        match self.operator:
            case "In":
                return labels.get(self.key) in values
            case "NotIn":
                return labels.get(self.key) not in values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


class LabelSelector(Model):
    """A Kubernetes label selector: all of its requirements must hold."""

    match_labels: Annotated[
        dict[str, LabelValue] | None,
        Field(
            description="Labels that must be there with exactly these values.",
            json_schema_extra={"maxProperties": 6},
        ),
    ] = None
    match_expressions: Annotated[
        tuple[SelectorRequirement, ...] | None,
        Field(
            max_length=3,
            description="Set-based requirements.",
            json_schema_extra=cel(
                rule(
                    "self.all(e, (e.operator in ['In', 'NotIn']) == "
                    "(has(e.values) && size(e.values) > 0))",
                    "matchExpressions: In and NotIn need a list of values, "
                    "Exists and DoesNotExist take none",
                ),
                rule(
                    f"self.all(e, e.key.matches('{LABEL_SYNTAX}'))",
                    "matchExpressions: a key is a label key such as app or example.com/team",
                ),
                rule(
                    "self.all(e, !has(e.values) || "
                    f"e.values.all(v, v.matches('{LABEL_VALUE_SYNTAX}')))",
                    "matchExpressions: a value is a label value such as web: letters, digits, "
                    "'-', '_' and '.'",
                ),
            ),
        ),
    ] = None

    @property
    def empty(self) -> bool:
        """Tell whether the selector has no requirement and so selects everything."""
        return not self.match_labels and not self.match_expressions

    def admits(self, labels: Mapping[str, str]) -> bool:
        """Tell whether labels meet every requirement, as the API server would."""
        # As sets, because every policy asks this of every node and every namespace.
        if self.match_labels and not self.match_labels.items() <= labels.items():
            return False
        return not self.match_expressions or all(
            requirement.admits(labels) for requirement in self.match_expressions
        )

    def to_query(self) -> str:
        """Return the selector in the API server's query form (``labelSelector=``)."""
        terms = [f"{key}={value}" for key, value in sorted((self.match_labels or {}).items())]
        for requirement in self.match_expressions or ():
            values = ",".join(requirement.values or ())
            match requirement.operator:
                case "In":
                    terms.append(f"{requirement.key} in ({values})")
                case "NotIn":
                    terms.append(f"{requirement.key} notin ({values})")
                case "Exists":
                    terms.append(requirement.key)
                case "DoesNotExist":
                    terms.append(f"!{requirement.key}")
        return ",".join(terms)
