"""Check a document against the schemas of a Google discovery document.  Pure but for reading it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "golden/google"

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "number": (int, float),
    "array": list,
    "object": dict,
}


def problems(api: str, root: str, document: Any) -> list[str]:
    """Return what *document* has that *root* of *api* does not take, or in another type."""
    schemas = json.loads((GOLDEN / f"{api}.json").read_text())["schemas"]
    return list(_check(schemas, {"$ref": root}, document, root))


def _check(schemas: dict[str, Any], schema: dict[str, Any], value: Any, at: str) -> Iterator[str]:
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    kind = schema.get("type")
    if kind == "integer":
        if not isinstance(value, int) or isinstance(value, bool):
            yield f"{at}: {value!r} is no integer"
        return
    if kind in _TYPES and not isinstance(value, _TYPES[kind]):
        yield f"{at}: {value!r} is no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if kind == "array":
        for number, item in enumerate(value):
            yield from _check(schemas, schema["items"], item, f"{at}[{number}]")
    if kind == "object":
        yield from _check_object(schemas, schema, value, at)


def _check_object(
    schemas: dict[str, Any], schema: dict[str, Any], value: dict[str, Any], at: str
) -> Iterator[str]:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    for name, item in value.items():
        known = properties.get(name, others)
        if known is None:
            yield f"{at}.{name}: not in the schema"
        else:
            yield from _check(schemas, known, item, f"{at}.{name}")
