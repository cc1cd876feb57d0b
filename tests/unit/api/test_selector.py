import re

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.api import LabelSelector, SelectorRequirement

KEYS = ("app", "tier", "example.com/team")
VALUES = ("", "a", "b", "c-1")
labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))


@st.composite
def requirements(draw: st.DrawFn) -> SelectorRequirement:
    """One requirement that the CRD admits."""
    operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
    values = st.lists(st.sampled_from(VALUES), min_size=1, max_size=3).map(tuple)
    return SelectorRequirement.model_validate(
        {
            "key": draw(st.sampled_from(KEYS)),
            "operator": operator,
            "values": draw(values) if operator in ("In", "NotIn") else None,
        }
    )


selectors = st.builds(
    LabelSelector,
    match_labels=st.none() | labels,
    match_expressions=st.none() | st.lists(requirements(), max_size=3).map(tuple),
)


def asked(query: str, present: dict[str, str]) -> bool:
    """Judge a `labelSelector=` query as the API server documents its terms."""
    for term in re.findall(r"[^,(]+(?:\([^)]*\))?", query):
        if match := re.fullmatch(r"(\S+) (in|notin) \((.*)\)", term):
            key, operator, values = match.groups()
            inside = key in present and present[key] in values.split(",")
            if inside != (operator == "in"):
                return False
        elif term.startswith("!"):
            if term[1:] in present:
                return False
        elif "=" in term:
            key, value = term.split("=", 1)
            if present.get(key) != value:
                return False
        elif term not in present:
            return False
    return True


@given(selectors, labels)
def test_admits_agrees_with_the_query(selector: LabelSelector, present: dict[str, str]) -> None:
    """Controller and agent must select the same namespaces, one by `admits`, one by query."""
    assert selector.admits(present) == asked(selector.to_query(), present)


@given(selectors, labels)
def test_empty_selector_admits_everything(selector: LabelSelector, present: dict[str, str]) -> None:
    """`empty` guards against a whole cluster in one domain, so it must mean just that."""
    if selector.empty:
        assert selector.admits(present)
        assert selector.to_query() == ""


def test_not_in_admits_an_absent_label() -> None:
    """Kubernetes' own, and often surprising, meaning."""
    selector = LabelSelector.model_validate(
        {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}
    )
    assert selector.admits({})
    assert not selector.admits({"app": "a"})
