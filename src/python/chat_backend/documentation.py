"""OpenAPI for /chat, from the very types that decode it.  Pure."""

from typing import Any

import msgspec

from chat_backend.chat_settings import ChatSettings
from chat_backend.messages import ChatQuestion, ChatReply, ErrorReply


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


# One event of a stream: a piece of the answer, or what ended it.
_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "event": {"type": "string", "enum": ["message", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}


def chat_documentation(settings: ChatSettings) -> dict[str, Any]:
    """Return what FastAPI is told of /chat, with the limits that this backend is set to."""
    return {
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _request_schema(settings)}},
            },
        },
        "responses": {
            200: {
                "description": "The answer; with `stream`, server-sent events",
                "content": {
                    **_content(ChatReply),
                    "text/event-stream": {"schema": _EVENT},
                },
            },
            **ERROR_DOCUMENTATION,
        },
    }


def _request_schema(settings: ChatSettings) -> dict[str, Any]:
    schema = _inlined(ChatQuestion)
    schema["properties"]["max_tokens"]["maximum"] = settings.max_tokens_limit
    # Of message and history together; a schema has no words for that.
    schema["properties"]["message"]["maxLength"] = settings.max_message_chars
    return schema
