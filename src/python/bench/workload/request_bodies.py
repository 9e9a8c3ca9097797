"""Calls -> request bodies.  Pure.

A prompt is token ids, made from the ids of its blocks: no tokenizer is needed, lengths are exact,
and what two requests share in the trace they share in the engine's prefix cache.  A chat takes no
token ids; its prompts are words that every tokenizer has a token for, and its template adds some.
"""

from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.workload.schedule import BLOCK_TOKENS, Call
from servekit.wire.openai import ChatRequest, CompletionRequest, Message, StreamOptions

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


def block_tokens(block: int, seed: int) -> NDArray[np.int64]:
    """Return the BLOCK_TOKENS token ids of *block*.  Another *seed* gives other tokens."""
    rng = np.random.Generator(np.random.PCG64([seed, block]))
    return rng.integers(FIRST_TOKEN, LAST_TOKEN + 1, BLOCK_TOKENS)


class PromptBook:
    """Writes the bodies of one schedule.  The JSON of a block is made once and kept."""

    def __init__(self, seed: int, *, chat: bool = False, stream: bool = True) -> None:
        self._seed = seed
        self._chat = chat
        self._stream = stream
        self._block_json = lru_cache(_BLOCKS_KEPT)(self._write_block)
        self._block_words = lru_cache(_BLOCKS_KEPT)(self._write_words)

    def body(self, call: Call) -> bytes:
        """Return the body of *call*: exactly its output tokens are asked for, whatever they say."""
        if self._chat:
            return self._chat_body(call)
        body = _encode(
            CompletionRequest(
                model=call.model,
                prompt=call.text,
                max_tokens=call.output_tokens,
                min_tokens=call.output_tokens,
                ignore_eos=True,
                temperature=0.0,
                stream=self._stream,
                stream_options=StreamOptions(include_usage=True) if self._stream else None,
            )
        )
        if call.text:
            return body
        # The encoder would write each of some thousand numbers again; the blocks are at hand.
        return body.replace(b'"prompt":""', b'"prompt":[' + self._token_json(call) + b"]", 1)

    def _chat_body(self, call: Call) -> bytes:
        return _encode(
            ChatRequest(
                model=call.model,
                messages=[Message("user", call.text or self._words(call))],
                max_tokens=call.output_tokens,
                min_tokens=call.output_tokens,
                ignore_eos=True,
                temperature=0.0,
                stream=self._stream,
                stream_options=StreamOptions(include_usage=True) if self._stream else None,
            )
        )

    def _token_json(self, call: Call) -> bytes:
        text = b"".join(self._block_json(block) for block in call.blocks)
        return text[: call.prompt_tokens * _WIDTH - 1]

    def _words(self, call: Call) -> str:
        text = b"".join(self._block_words(block) for block in call.blocks)
        return text[: call.prompt_tokens * _WORD_WIDTH - 1].decode()

    def _write_words(self, block: int) -> bytes:
        """Return the block's tokens as words, each with the blank after it."""
        return _WORD_TABLE[block_tokens(block, self._seed) % len(WORDS)].tobytes()

    def _write_block(self, block: int) -> bytes:
        """Return the block's tokens as `12345,23456,…,`, the last comma with it."""
        tokens = block_tokens(block, self._seed)
        digits = tokens[:, None] // (10_000, 1_000, 100, 10, 1) % 10 + ord("0")
        table = np.full((len(tokens), _WIDTH), ord(","), dtype=np.uint8)
        table[:, :-1] = digits
        return table.tobytes()
