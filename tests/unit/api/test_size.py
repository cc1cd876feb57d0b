import json
from typing import Any, Final

from ksm_operator.api._crd import crds
from ksm_operator.api._policy import NAMESPACES_CHARACTERS
from ksm_operator.api._selector import SELECTOR_CHARACTERS

MAX_SPEC_BYTES: Final = 3 * 1024
MAX_BYTES: Final = 8 * 1024
KEY_LENGTHS: Final = {"baseline": len("advisor_max_pages_to_scan")}
"""The longest keys of free-form maps: baseline's are the writable file names of sysfs."""
CHARACTERS: Final = {
    "namespaceSelector": SELECTOR_CHARACTERS,
    "podSelector": SELECTOR_CHARACTERS,
    "namespaces": NAMESPACES_CHARACTERS,
}
"""Parts whose texts are bounded together, by a CEL rule, instead of one by one."""


def size(schema: dict[str, Any], name: str = "", *, texts: bool = True) -> int:
    """Return the bytes of the largest compact JSON value that a structural schema admits.

    Args:
        schema: what the value must meet.
        name: of the field.
        texts: count the characters of strings; else they are bounded together elsewhere.
    """
    if name in CHARACTERS:
        return CHARACTERS[name] + container(schema, name, texts=False)
    if "enum" in schema:
        return max(len(value) for value in schema["enum"]) + 2
    if schema.get("type") in ("object", "array"):
        return container(schema, name, texts=texts)
    return scalar(schema, texts=texts)


def scalar(schema: dict[str, Any], *, texts: bool) -> int:
    """Return the bytes of the longest string, number or boolean."""
    if schema.get("format") == "date-time":
        return len('"2026-11-23T06:00:00Z"')
    if schema["type"] == "string":
        return int(schema["maxLength"]) * texts + 2
    return {"boolean": len("false"), "integer": len("-1000000000000")}[schema["type"]]


def container(schema: dict[str, Any], name: str, *, texts: bool) -> int:
    """Return the bytes of the largest object or list, with its punctuation."""
    if "properties" in schema:
        parts = schema["properties"].items()
        return 1 + sum(len(key) + 4 + size(part, key, texts=texts) for key, part in parts)
    if schema["type"] == "array":
        return 1 + int(schema["maxItems"]) * (1 + size(schema["items"], texts=texts))
    key = KEY_LENGTHS[name] if texts else 0
    one = key + 4 + size(schema["additionalProperties"], texts=texts)
    return 1 + int(schema["maxProperties"]) * one


def parts() -> dict[str, Any]:
    """Return the schemas of spec and status."""
    version = crds()["ksmnodes"]["spec"]["versions"][0]
    properties: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]
    return properties


def spec_size() -> int:
    """Return the bytes of the largest spec; namespaceSelector and namespaces exclude each other."""
    spec = parts()["spec"]
    policy = spec["properties"]["policy"]["properties"]
    either = ("namespaceSelector", "namespaces")
    return size(spec) - min(len(key) + 4 + size(policy[key], key) for key in either)


def test_largest_spec_leaves_room_for_the_status() -> None:
    """The user's selectors travel in every KSMNode."""
    assert spec_size() < MAX_SPEC_BYTES


def test_largest_ksmnode_is_small() -> None:
    """Thousands of KSMNodes are listed and watched: each must be small by its schema alone."""
    assert spec_size() + size(parts()["status"]) < MAX_BYTES


def test_size_counts_as_json_does() -> None:
    """The measure is checked against the real encoder on a schema of every kind."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "maxItems": 2, "items": {"type": "string", "maxLength": 3}},
            "b": {"type": "boolean"},
            "baseline": {
                "type": "object",
                "maxProperties": 1,
                "additionalProperties": {"type": "string", "maxLength": 1},
            },
        },
    }
    value = {"a": ["xxx", "xxx"], "b": False, "baseline": {"k" * KEY_LENGTHS["baseline"]: "v"}}
    assert size(schema) == len(json.dumps(value, separators=(",", ":")))
