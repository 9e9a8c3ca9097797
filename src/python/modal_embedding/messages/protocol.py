"""The embeddings endpoint in OpenAI's JSON, and what we add to it.  Pure."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from modal_embedding.messages.vectors import (
    Vectors,
    as_vectors,
    from_base64,
    shortest,
    to_base64,
)
from servekit.errors.tree import EngineRefused, PromptTooLong, RequestError, RequestInvalid

TokenIds = list[int]
Texts = list[str]


class EmbedOptions(msgspec.Struct, frozen=True):
    """How texts are to be embedded.

    Attributes:
        dimensions: None for the model's own.
        instruction: what the texts, as queries, are for.
        query: the texts are queries; without an instruction they get the model's own.
        truncate_prompt_tokens: read so many tokens of each text; -1 for what the model reads;
            None refuses a longer one.
    """

    dimensions: int | None = None
    instruction: str | None = None
    query: bool = False
    truncate_prompt_tokens: int | None = None


# What OpenAI's, Cohere's and Voyage's clients call the two sides of a search.
QUERY_TYPES = frozenset({"query", "search_query"})


class TextTooLong(PromptTooLong):
    """One text of several has more tokens than the model reads.

    Attributes:
        index: which text.
        tokens: how many it has.
        limit: how many the model reads.
    """

    def __init__(self, index: int, tokens: int, limit: int) -> None:
        super().__init__(index, tokens, limit)
        self.index = index
        self.tokens = tokens
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"text {self.index} has {self.tokens} tokens and the model reads {self.limit}; "
            "shorten or split it"
        )


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/embeddings.  A field that is not here is refused by its name.

    Attributes:
        input: text, token ids, or a list of either.
        instruction: ours; what the texts, as queries, are for.
        input_type: ours; a query gets the model's own instruction.
        truncate_prompt_tokens: vLLM's; as in `EmbedOptions`.
        user: OpenAI's; nothing is done with it.
    """

    input: str | list[str | int | list[int]]
    model: str = ""
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    instruction: str | None = None
    input_type: (
        Literal["query", "search_query", "document", "search_document", "passage"] | None
    ) = None
    truncate_prompt_tokens: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    user: str | None = None


class EmbeddingRow(msgspec.Struct, frozen=True):
    embedding: list[float] | str
    index: int
    object: str = "embedding"


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    data: list[EmbeddingRow]
    model: str = ""
    object: str = "list"
    usage: EmbeddingUsage = EmbeddingUsage()


class Embedded(msgspec.Struct, frozen=True):
    """Vectors in the order of their texts, and the tokens that were read for them."""

    vectors: Vectors
    tokens: int


_encode = msgspec.json.Encoder().encode
_read_request = msgspec.json.Decoder(EmbeddingsRequest).decode
_read_answer = msgspec.json.Decoder(EmbeddingsAnswer).decode


def read_request(body: bytes) -> EmbeddingsRequest:
    """Return the request in *body*.

    Raises:
        RequestInvalid: it is not JSON, or not what the endpoint takes.
    """
    try:
        return _read_request(body)
    except msgspec.ValidationError as error:
        raise RequestInvalid(f"the request does not fit the endpoint: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestInvalid(f"the body is not JSON: {error}") from error


def inputs_of(request: EmbeddingsRequest) -> Texts | list[TokenIds]:
    """Return what is to be embedded, one entry per vector.

    Raises:
        RequestInvalid: an entry is empty, or texts and tokens are mixed; names its index.
    """
    given = request.input
    if isinstance(given, str):
        return check_texts([given])
    if given and all(isinstance(item, int) for item in given):
        return _token_lists([[item for item in given if isinstance(item, int)]])
    if any(isinstance(item, list) for item in given):
        return _token_lists(given)
    return check_texts(given)


def check_texts(texts: object) -> Texts:
    """Return *texts* as a list of strings that can be embedded.

    Raises:
        RequestInvalid: not a list, none in it, an entry is no string, or one is empty; names its
            index.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise RequestInvalid(f"the texts are {_named(texts)}; pass a list of strings")
    if not texts:
        raise RequestInvalid("there are no texts; send at least one")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise RequestInvalid(f"text {index} is {_named(text)}; every text is a string")
        if text == "":
            raise RequestInvalid(f"text {index} is empty; there is nothing to embed, leave it out")
        if not _is_unicode(text):
            raise RequestInvalid(f"text {index} is not Unicode: it holds half a surrogate pair")
    return list(texts)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _token_lists(given: Sequence[str | int | list[int]]) -> list[TokenIds]:
    lists: list[TokenIds] = []
    for index, item in enumerate(given):
        if not isinstance(item, list):
            raise RequestInvalid(f"text {index} stands among lists of tokens; send one kind")
        if not item:
            raise RequestInvalid(f"text {index} has no tokens; there is nothing to embed")
        if min(item) < 0:
            raise RequestInvalid(f"text {index} has the token {min(item)}; an id is 0 or more")
        lists.append(item)
    return lists


def answer_body(
    embedded: Embedded, model: str, encoding: Literal["float", "base64"] | None = "float"
) -> bytes:
    """Return the JSON of an answer."""
    written: list[list[float] | str]
    if encoding == "base64":
        written = [to_base64(row) for row in embedded.vectors]
    else:
        written = list(shortest(embedded.vectors).tolist())
    rows = [EmbeddingRow(row, at) for at, row in enumerate(written)]
    usage = EmbeddingUsage(embedded.tokens, embedded.tokens)
    return _encode(EmbeddingsAnswer(data=rows, model=model, usage=usage))


def request_body(inputs: Sequence[str] | Sequence[TokenIds], model: str, **more: object) -> bytes:
    """Return the JSON that asks for vectors in base64: a third of the bytes of floats as text."""
    asked = {name: value for name, value in more.items() if value is not None}
    return _encode({"model": model, "input": inputs, "encoding_format": "base64", **asked})


def read_answer(body: bytes, count: int) -> Embedded:
    """Return the *count* vectors of an answer, put into the order of their index.

    Raises:
        EngineRefused: the answer is not that of an embeddings endpoint.
    """
    try:
        answer = _read_answer(body)
        rows = sorted(answer.data, key=lambda row: row.index)
        if [row.index for row in rows] != list(range(count)):
            raise RequestInvalid(f"it has {len(rows)} vectors for {count} texts")
        vectors = _vectors([row.embedding for row in rows])
    except (msgspec.DecodeError, RequestError) as error:
        raise EngineRefused(
            f"the answer is not what /v1/embeddings returns: {error}; check the URL", status=502
        ) from error
    return Embedded(vectors, answer.usage.prompt_tokens)


def _vectors(written: Sequence[list[float] | str]) -> Vectors:
    texts = [text for text in written if isinstance(text, str)]
    if texts and len(texts) == len(written):
        return from_base64(texts)
    return as_vectors([from_base64([row])[0] if isinstance(row, str) else row for row in written])


class _TooLongError(msgspec.Struct, frozen=True):
    message: str
    index: int
    tokens: int
    max_model_len: int
    type: str = "BadRequestError"
    param: str = "input"
    code: int = 400


class _TooLong(msgspec.Struct, frozen=True):
    error: _TooLongError


def too_long_body(error: TextTooLong) -> bytes:
    """Return the JSON of the error: OpenAI's envelope, with the index and the counts beside it."""
    return _encode(_TooLong(_TooLongError(str(error), error.index, error.tokens, error.limit)))


def read_too_long(body: bytes) -> TextTooLong | None:
    """Return the error that `too_long_body` wrote, or None where *body* is something else."""
    try:
        error = msgspec.json.decode(body, type=_TooLong).error
    except msgspec.DecodeError:
        return None
    return TextTooLong(error.index, error.tokens, error.max_model_len)
