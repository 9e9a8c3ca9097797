"""OpenAPI for /chat, from the very types that decode it.  Pure."""

from typing import Any

import msgspec

from chat_backend.messages import ChatReply, ChatRequest, ErrorReply


def _inlined(kind: type) -> dict[str, Any]:
    """Return the JSON schema of *kind* with nothing left to look up elsewhere."""
    schema = msgspec.json.schema(kind)
    parts = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolved(parts[node["$ref"].rpartition("/")[2]])
        return {name: resolved(value) for name, value in node.items()}

    whole: dict[str, Any] = resolved(schema)
    return whole


def _content(kind: type) -> dict[str, Any]:
    return {"application/json": {"schema": _inlined(kind)}}


_WHY = {
    400: "Not JSON",
    401: "No valid key",
    413: "More than the model, or a message, may hold",
    422: "A field is missing or out of range",
    429: "Too many requests; Retry-After says when",
    502: "The engine failed",
    503: "No engine, or a full one; Retry-After says when",
    504: "The engine did not answer in time",
}

ERROR_DOCUMENTATION: dict[int | str, dict[str, Any]] = {
    status: {"description": why, "content": _content(ErrorReply)} for status, why in _WHY.items()
}

CHAT_DOCUMENTATION: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": {"required": True, "content": _content(ChatRequest)},
    },
    "responses": {
        200: {
            "description": "The answer; with `stream`, server-sent events",
            "content": {
                **_content(ChatReply),
                "text/event-stream": {"schema": {"type": "string"}},
            },
        },
        **ERROR_DOCUMENTATION,
    },
}
