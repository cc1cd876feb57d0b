"""pydantic's JSON schema made structural, as a CustomResourceDefinition needs it."""

from typing import Any

from pydantic import BaseModel

_DROPPED = ("title", "const")


def structural(model: type[BaseModel], *, defaults: bool = True) -> dict[str, Any]:
    """Return a model's OpenAPI v3 schema without references, unions with null or titles.

    Kubernetes takes only structural schemas: every level has one type, `$ref` and `anyOf` over
    types are not allowed, and optional means absent, not null.

    Args:
        model: what the schema describes.
        defaults: keep default values. A status has none: what nobody reported is not known.
    """
    schema = model.model_json_schema(by_alias=True, mode="validation")
    flat = _flatten(schema, schema.get("$defs", {}))
    return flat if defaults else _without_defaults(flat)


def _without_defaults(schema: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in schema.items() if key != "default"}
    if "items" in plain:
        plain["items"] = _without_defaults(plain["items"])
    if "properties" in plain:
        parts = plain["properties"].items()
        plain["properties"] = {name: _without_defaults(part) for name, part in parts}
    return plain


def _flatten(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        siblings = {key: value for key, value in schema.items() if key != "$ref"}
        return _flatten({**target, **siblings}, definitions)
    if "anyOf" in schema:
        return _without_null(schema, definitions)
    flat: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _DROPPED or key == "$defs" or (key == "default" and value is None):
            continue
        if key == "properties":
            flat[key] = {name: _flatten(part, definitions) for name, part in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            flat[key] = _flatten(value, definitions)
        else:
            flat[key] = value
    if flat.get("type") == "integer":
        flat["format"] = "int64"
    if flat.get("default") == []:
        del flat["default"]
    return flat


def _without_null(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if rest.get("x-kubernetes-int-or-string"):
        return _flatten(rest, definitions)
    options = [option for option in schema["anyOf"] if option.get("type") != "null"]
    if len(options) != 1:
        raise TypeError(f"a structural schema has one type per field, this has {options}")
    return _flatten({**options[0], **rest}, definitions)
