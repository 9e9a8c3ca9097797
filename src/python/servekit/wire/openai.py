"""The OpenAI JSON that we touch, as vLLM speaks it.  Pure.

Only what we read or write is here; a relay passes everything else on unread.  Shapes follow
vLLM 0.32, captured in tests/golden.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from servekit.errors.tree import RequestInvalid

T = TypeVar("T")


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/completions.  *prompt* is text, token ids, or a list of either."""

    model: str
    # Strings and token ids are never mixed; msgspec cannot say so.
    prompt: str | list[str | int | list[int]] = ""
    max_tokens: int | None = 16
    min_tokens: int = 0
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    temperature: float | None = None
    seed: int | None = None


class Message(msgspec.Struct, frozen=True):
    role: str
    # A list holds typed parts: {"type": "text", "text": …}.
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    temperature: float | None = None
    seed: int | None = None


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None

    @property
    def content(self) -> str:
        """The text of this choice, whichever endpoint and mode it comes from."""
        spoken = self.delta or self.message
        return (spoken.content if spoken else self.text) or ""


class ErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str = ""
    param: str | None = None
    code: int | str | None = None


class Answer(msgspec.Struct, frozen=True):
    """A whole answer, or one event of a streamed one."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: ErrorBody | None = None


class ModelCard(msgspec.Struct, frozen=True):
    id: str
    max_model_len: int | None = None


class ModelList(msgspec.Struct, frozen=True):
    data: list[ModelCard]


class _ErrorEnvelope(msgspec.Struct, frozen=True):
    error: ErrorBody


_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(Answer).decode
_decode_models = msgspec.json.Decoder(ModelList).decode


def read_answer(body: bytes) -> Answer:
    """Return an answer, or the data of one event.

    Raises:
        RequestInvalid: it is not a JSON object, or a field has the wrong type.
    """
    return _read(_decode_answer, body)


def read_models(body: bytes) -> ModelList:
    """Return the list that /v1/models answers with.

    Raises:
        RequestInvalid: as for `read_answer`.
    """
    return _read(_decode_models, body)


def error_envelope(
    status: int, message: str, kind: str | None = None, param: str | None = None
) -> bytes:
    """Return the JSON body of an error, in the envelope that OpenAI's clients read."""
    return _encode(_ErrorEnvelope(ErrorBody(message, kind or _kind(status), param, status)))


# The names that vLLM gives to the statuses it sends (entrypoints/openai/protocol.py); the rest
# follow the same pattern.
_KINDS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    429: "RateLimitError",
    500: "InternalServerError",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
}


def _kind(status: int) -> str:
    return _KINDS.get(status, "BadRequestError" if status < 500 else "InternalServerError")


def _read(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise RequestInvalid(f"the request does not fit the endpoint: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestInvalid(f"the body is not JSON: {error}") from error
