"""What a JSON schema costs the engine that must make an answer fit it.  Pure.

vLLM 0.32 gives a schema that xgrammar cannot take to llguidance, in the process that serves, and
that allocates about 90 bytes for each item of an array that a schema counts: at `minItems` of 10^9
the process is aborted, and every other request with it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from servekit.errors.tree import RequestInvalid

# Together at most 9 MB; no list that a model writes is longer.
MAX_ITEMS = 100_000

_COUNTS = ("minItems", "maxItems")

# Where a request of any of vLLM's routes holds schemas: OpenAI's chats, completions and responses,
# Anthropic's messages, and vLLM's own fields, those of older releases too.
_HOLDERS = (
    *("response_format", "structured_outputs", "tools", "functions", "text", "output_config"),
    *("guided_json", "guided_grammar", "guided_regex", "sampling_params"),
)


def require_bounded_schema(schema: object) -> None:
    """Refuse a schema whose item counts add up to more than MAX_ITEMS.

    A schema may stand in it as text, as `structured_outputs` takes it.

    Raises:
        RequestInvalid: they do.
    """
    total = sum(_item_counts(schema))
    if total > MAX_ITEMS:
        raise RequestInvalid(
            f"the JSON schema counts {total:.6g} items (minItems, maxItems); it may count at most "
            f"{MAX_ITEMS}"
        )


def require_bounded_body(body: bytes) -> None:
    """Refuse the body of a request that holds such a schema; what is no JSON is passed over.

    Raises:
        RequestInvalid: one is in it.
    """
    # Nearly every body ends here.  A name may be written with escapes.
    if b"Items" not in body and b"\\u00" not in body:
        return
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return
    if isinstance(request, dict):
        require_bounded_schema({name: request[name] for name in _HOLDERS if name in request})


def _item_counts(schema: object) -> Iterator[float]:
    ahead: list[Any] = [schema]
    while ahead:
        value = ahead.pop()
        if isinstance(value, Mapping):
            ahead += value.values()
            yield from (
                abs(value[name])
                for name in _COUNTS
                if isinstance(value.get(name), int | float) and value[name] == value[name]
            )
        elif isinstance(value, list | tuple):
            ahead += value
        elif isinstance(value, str) and any(name in value or "\\u00" in value for name in _COUNTS):
            ahead += _read(value)


def _read(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [found] if isinstance(found, dict | list) else []
