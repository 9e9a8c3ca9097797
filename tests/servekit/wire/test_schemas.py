"""Schemas that cost an engine its life are refused, wherever they stand in a request."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import RequestInvalid
from servekit.wire.schemas import MAX_ITEMS, require_bounded_body, require_bounded_schema

HUGE = {"type": "array", "minItems": 10**9}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("minItems"), inner),
)


def _within(schema: object) -> list[dict[str, Any]]:
    """Requests of every route that hold *schema*."""
    return [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": schema},
            }
        },
        {"structured_outputs": {"json": schema}},
        {"structured_outputs": {"json": json.dumps(schema)}},
        {"guided_json": json.dumps(schema)},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]},
        {"tools": [{"name": "f", "input_schema": schema}]},
        {"text": {"format": {"type": "json_schema", "schema": schema}}},
        {"output_config": {"format": {"schema": schema}}},
        {"sampling_params": {"structured_outputs": {"json": schema}}},
    ]


@pytest.mark.parametrize("request_", _within(HUGE))
def test_a_huge_count_is_refused_in_every_request(request_: dict[str, Any]) -> None:
    """Written as the client likes: with blanks, with escapes."""
    for text in (json.dumps(request_), json.dumps(request_).replace("minItems", "min\\u0049tems")):
        with pytest.raises(RequestInvalid, match=r"counts 1e[+]09 items .* at most 100000"):
            require_bounded_body(text.encode())


@pytest.mark.parametrize(
    "schema",
    [
        {"maxItems": 10**9},
        {"items": {"items": {"minItems": 1e9}}},
        {"anyOf": [{"minItems": MAX_ITEMS // 3}] * 4},
        {"properties": {"a": {"minItems": 60_000}, "b": {"maxItems": 60_000}}},
        [HUGE],
        json.dumps(HUGE),
    ],
)
def test_counts_add_up(schema: object) -> None:
    """However many arrays they are spread over, and however deep."""
    with pytest.raises(RequestInvalid):
        require_bounded_schema(schema)


@pytest.mark.parametrize("request_", _within({"type": "array", "minItems": 3, "maxItems": 1000}))
def test_what_people_ask_for_passes(request_: dict[str, Any]) -> None:
    """And so does a prompt that speaks of it."""
    require_bounded_body(json.dumps(request_).encode())
    require_bounded_body(json.dumps({"prompt": json.dumps(HUGE), "messages": [HUGE]}).encode())


@given(value=JSON)
def test_any_json_passes_or_is_refused(value: object) -> None:
    """Nothing else is raised, NaN and deep nesting included."""
    for text in (json.dumps(value), json.dumps({"tools": value}), f"{'[' * 5000}Items"):
        with suppress(RequestInvalid):
            require_bounded_body(text.encode())
