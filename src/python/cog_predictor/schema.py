"""The OpenAPI schema of a runner file, by introspection.

    python -m cog_predictor.schema run.py:Runner > .cog/openapi_schema.json

`cog build` writes .cog/openapi_schema.json itself, by a parser that we do not have.  An image that
is built without it needs the file all the same: without one, the server checks no input.
"""

import inspect
import json
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from cog import Secret
from cog.input import FieldInfo
from cog.predictor import BaseRunner, load_predictor_from_ref

_TYPES: dict[Any, dict[str, object]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Secret: {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True},
}
_BOUNDS = (
    ("ge", "minimum"),
    ("le", "maximum"),
    ("min_length", "minLength"),
    ("max_length", "maxLength"),
    ("regex", "pattern"),
)
_TEXT_IN_PIECES: dict[str, object] = {
    "title": "Output",
    "type": "array",
    "items": {"type": "string"},
    "x-cog-array-type": "iterator",
    "x-cog-array-display": "concatenate",
}
# Cog's names for the two things that a server can do.
_PREDICT = ("/predictions", "Input", "Output", "PredictionRequest", "PredictionResponse")
_TRAIN = ("/trainings", "TrainingInput", "TrainingOutput", "TrainingRequest", "TrainingResponse")


def schema_of(target: object) -> dict[str, object]:
    """Return the schema of a runner, or of a training function."""
    if isinstance(target, BaseRunner):
        owner = type(target)
        return _schema(owner.run if owner._run_owner else owner.predict, _PREDICT, _TEXT_IN_PIECES)
    if not callable(target):
        raise TypeError(f"{target!r} is neither a runner nor a training function")
    return _schema(target, _TRAIN, {"title": "TrainingOutput", "type": "object"})


def _schema(
    function: Callable[..., Any], names: tuple[str, ...], output: dict[str, object]
) -> dict[str, object]:
    path, given, made, request, response = names
    schemas = {
        given: _input(function, given),
        made: output,
        request: _object(request, {"id": {"type": "string"}, "input": _ref(given)}),
        response: _object(response, {"output": _ref(made), "error": {"type": "string"}}),
    }
    post = {
        "requestBody": {"content": _json(_ref(request))},
        "responses": {"200": {"description": "The result", "content": _json(_ref(response))}},
        # Permits `Accept: text/event-stream`, as @cog.streaming does for `cog build`.
        "x-cog-streaming": path == "/predictions",
    }
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": {path: {"post": post}},
        "components": {"schemas": schemas},
    }


def _input(function: Callable[..., Any], title: str) -> dict[str, object]:
    hints = typing.get_type_hints(function)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    properties = {}
    required = []
    for order, parameter in enumerate(parameters):
        field = parameter.default
        if not isinstance(field, FieldInfo):
            field = FieldInfo(default=None if field is inspect.Parameter.empty else field)
        kind, optional = _without_none(hints[parameter.name])
        properties[parameter.name] = _property(parameter.name, order, kind, field, optional)
        if field.default is None and not optional:
            required.append(parameter.name)
    return {
        "title": title,
        "type": "object",
        "properties": properties,
        "required": required,
    }


def _property(
    name: str, order: int, kind: object, field: FieldInfo, optional: bool
) -> dict[str, object]:
    if kind not in _TYPES:
        raise TypeError(f"input {name!r} has the type {kind}; only {list(_TYPES)} are understood")
    found: dict[str, object] = {"title": name.replace("_", " ").title(), "x-order": order}
    found |= _TYPES[kind]
    if field.description:
        found["description"] = field.description
    for attribute, keyword in _BOUNDS:
        if getattr(field, attribute) is not None:
            found[keyword] = getattr(field, attribute)
    if field.default is not None:
        found["default"] = field.default
    if optional:
        found["nullable"] = True
    return found


def _without_none(hint: Any) -> tuple[object, bool]:
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0], True


def _object(title: str, properties: dict[str, object]) -> dict[str, object]:
    return {"title": title, "type": "object", "properties": properties}


def _ref(name: str) -> dict[str, object]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, object]) -> dict[str, object]:
    return {"application/json": {"schema": schema}}


def main() -> None:
    """Print the schema of the runner that the first argument names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m cog_predictor.schema run.py:Runner > .cog/openapi_schema.json")
    json.dump(schema_of(load_predictor_from_ref(sys.argv[1])), sys.stdout, indent=2)


if __name__ == "__main__":
    main()
