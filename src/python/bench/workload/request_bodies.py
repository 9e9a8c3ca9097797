"""Calls -> request bodies.  Pure.

A prompt is token ids, made from the ids of its blocks: no tokenizer is needed, lengths are exact,
and what two requests share in the trace they share in the engine's prefix cache.  Where an API
takes no token ids, prompts are words that every tokenizer has a token for; how many characters make
a token, and what a template adds, is learned from the server's counts (bench.loadgen.text_scale).
"""

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.workload.schedule import BLOCK_TOKENS, Call
from servekit.errors.tree import SettingInvalid

# Mixtral's vocabulary, the smallest here, ends at 32,000.  Five digits each, so that the JSON of a
# block is a table of fixed width, which numpy writes and a slice cuts.
FIRST_TOKEN = 10_000
LAST_TOKEN = 31_999
_WIDTH = len("12345,")

# Each is one token after a blank, in Mistral's vocabularies of 32,000 and of 131,000 and in GPT-2's
# (512 of them: 512 tokens in each).  Three letters and a blank: where a token is taken for four
# characters, as our simulator does, the count is right as well.
_TEXT = (
    "the and for are but not you all any can had her was one our out day get has him his how man "
    "new now old see two way who boy did its let put say she too use men far few end own set why "
    "ask big run air car cut eat eye fun hot job key law lay led lie lot low map mix nor off oil "
    "pay per red sea sit six sky son sun tax ten top try war win yes yet age ago arm art bad bag "
    "bar bed bit box bus buy cup die dog dry ear fit fly gas got guy hit ice leg mom net odd pen"
)
WORDS = _TEXT.split()
_WORD_WIDTH = len("the ")
_WORD_TABLE = np.array([list(f"{word} ".encode()) for word in WORDS], dtype=np.uint8)

# A block is 3 KB of JSON; this many are 24 MB.
_BLOCKS_KEPT = 8_192

_encode = msgspec.json.Encoder().encode


class Api(StrEnum):
    """What a server is asked for, and how."""

    COMPLETIONS = "completions"
    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"


# Where each is, below the server's URL.
PATHS = {
    Api.COMPLETIONS: "/v1/completions",
    Api.CHAT: "/v1/chat/completions",
    Api.EMBEDDINGS: "/v1/embeddings",
    Api.RESPONSES: "/v1/responses",
}

# The field that limits an answer, where no other is asked for.
_LENGTH_FIELDS = {
    Api.COMPLETIONS: "max_tokens",
    Api.CHAT: "max_tokens",
    Api.RESPONSES: "max_output_tokens",
}


# From so many characters a token on, a token is a word, and a word cut in two would be two.
_CHARS_OF_WORDS = 3.0


class TextScale(msgspec.Struct, frozen=True):
    """How a server counts our words.

    Attributes:
        chars_per_token: of words and the blanks between them.
        overhead: tokens that a template or a tokenizer adds to every prompt.
    """

    chars_per_token: float = 4.0
    overhead: float = 0.0

    def chars(self, tokens: int) -> int:
        """Return how many characters of our words make *tokens*; at least one word."""
        chars = max(_WORD_WIDTH, round((tokens - self.overhead) * self.chars_per_token))
        is_words = self.chars_per_token >= _CHARS_OF_WORDS
        return round(chars / _WORD_WIDTH) * _WORD_WIDTH if is_words else chars


WORDS_ARE_TOKENS = TextScale()


class RequestShape(msgspec.Struct, frozen=True, kw_only=True):
    """What every body of a run has, whatever its call.

    Attributes:
        force_length: ask for exactly the output tokens of a call (`ignore_eos`, `min_tokens`), as
            vLLM and its kin understand it.
        length_field: the field that limits an answer; empty for the API's usual one.
        text_prompts: send words where token ids would do.
        extra_body: fields that every body gets; one of None is left out of every body.
        scales: how each model's server counts words.
    """

    api: Api = Api.COMPLETIONS
    stream: bool = True
    force_length: bool = True
    length_field: str = ""
    text_prompts: bool = False
    extra_body: dict[str, Any] = {}
    scales: dict[str, TextScale] = {}

    @property
    def takes_words(self) -> bool:
        """Whether prompts that are made here are words."""
        return self.text_prompts or self.api in (Api.CHAT, Api.RESPONSES)

    @property
    def streams(self) -> bool:
        """Whether answers are streamed: embeddings never are."""
        return self.stream and self.api is not Api.EMBEDDINGS


def block_tokens(block: int, seed: int, tokens: int = BLOCK_TOKENS) -> NDArray[np.int64]:
    """Return the *tokens* token ids of *block*.  Another *seed* gives other tokens."""
    rng = np.random.Generator(np.random.PCG64([seed, block]))
    return rng.integers(FIRST_TOKEN, LAST_TOKEN + 1, tokens)


class PromptBook:
    """Writes the bodies of one schedule.  The JSON of a block is made once and kept."""

    def __init__(self, seed: int, shape: RequestShape | None = None) -> None:
        self._seed = seed
        self._shape = shape or RequestShape()
        self._block_json = lru_cache(_BLOCKS_KEPT)(self._write_block)
        self._block_words = lru_cache(_BLOCKS_KEPT)(self._write_words)

    def body(self, call: Call, said: Sequence[dict[str, Any]] = ()) -> bytes:
        """Return the body of *call*; *said* are the messages of its conversation before it."""
        if call.body:
            return self._given(call)
        prompt = self._prompt(call, said)
        fields = {"model": call.model, **prompt, **self._answer_fields(call), **call.fields}
        body = _encode(self._with_extra(fields))
        if prompt != {"prompt": ""} and prompt != {"input": ""}:
            return body
        # The encoder would write each of some thousand numbers again; the blocks are at hand.
        name = next(iter(prompt)).encode()
        tokens = self._token_json(call)
        return body.replace(b'"%s":""' % name, b'"%s":[%s]' % (name, tokens), 1)

    def messages(self, call: Call) -> list[dict[str, Any]]:
        """Return what *call* adds to its conversation."""
        if call.messages:
            return list(call.messages)
        return [{"role": "user", "content": self._text(call)}]

    def _given(self, call: Call) -> bytes:
        """Return the body that a file has: nothing is asked for that is not in it."""
        stream = {"stream": True} if self._shape.streams else {}
        usage = self._usage() if "stream_options" not in call.body else {}
        fields = {**call.body, "model": call.model, **stream, **usage}
        return _encode(self._with_extra(fields))

    def _prompt(self, call: Call, said: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The field of the prompt; an empty text stands for token ids."""
        api = self._shape.api
        if api is Api.CHAT:
            return {"messages": [*said, *self.messages(call)]}
        name = "prompt" if api is Api.COMPLETIONS else "input"
        if api is Api.RESPONSES and (said or call.messages):
            return {name: [*said, *self.messages(call)]}
        if call.messages or said:
            return {name: _as_text([*said, *self.messages(call)])}
        is_ids = not (call.text or call.new_tokens or self._shape.takes_words)
        return {name: "" if is_ids else self._text(call)}

    def _answer_fields(self, call: Call) -> dict[str, Any]:
        shape = self._shape
        if shape.api is Api.EMBEDDINGS:
            return {}
        length = {shape.length_field or _LENGTH_FIELDS[shape.api]: call.output_tokens}
        forced = {"min_tokens": call.output_tokens, "ignore_eos": True}
        return {
            **length,
            **(forced if shape.force_length else {}),
            "temperature": 0.0,
            "stream": shape.stream,
            **self._usage(),
        }

    def _usage(self) -> dict[str, Any]:
        """Responses always end with their counts; the other streams must be asked for them."""
        if not self._shape.streams or self._shape.api is Api.RESPONSES:
            return {}
        return {"stream_options": {"include_usage": True}}

    def _with_extra(self, fields: dict[str, Any]) -> dict[str, Any]:
        extra = self._shape.extra_body
        if not extra:
            return fields
        return {k: v for k, v in {**fields, **extra}.items() if v is not None or k not in extra}

    def _text(self, call: Call) -> str:
        return call.text or self._words(call)

    def _token_json(self, call: Call) -> bytes:
        text = b"".join(self._block_json(block, call.block_tokens) for block in call.blocks)
        return text[: call.prompt_tokens * _WIDTH - 1]

    def _words(self, call: Call) -> str:
        scale = self._shape.scales.get(call.model, WORDS_ARE_TOKENS)
        chars = scale.chars(call.new_tokens or call.prompt_tokens)
        text = b"".join(self._block_words(block, call.block_tokens) for block in call.blocks)
        # A word may be less than a token: then the text is said again.
        return (text * -(-chars // max(1, len(text))))[: chars - 1].decode()

    def _write_words(self, block: int, tokens: int) -> bytes:
        """Return the block's tokens as words, each with the blank after it."""
        return _WORD_TABLE[block_tokens(block, self._seed, tokens) % len(WORDS)].tobytes()

    def _write_block(self, block: int, tokens: int) -> bytes:
        """Return the block's tokens as `12345,23456,…,`, the last comma with it."""
        own = block_tokens(block, self._seed, tokens)
        digits = own[:, None] // (10_000, 1_000, 100, 10, 1) % 10 + ord("0")
        table = np.full((len(own), _WIDTH), ord(","), dtype=np.uint8)
        table[:, :-1] = digits
        return table.tobytes()


def _as_text(messages: Sequence[dict[str, Any]]) -> str:
    """Return *messages* as one text, for an API that has no roles.

    Raises:
        SettingInvalid: one of them is no text.
    """
    texts = [message.get("content") for message in messages]
    if not all(isinstance(text, str) for text in texts):
        raise SettingInvalid(
            "a message of the workload has content that is not text, which only --endpoint-type "
            "chat and responses can send"
        )
    return "\n".join(str(text) for text in texts)
