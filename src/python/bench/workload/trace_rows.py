"""The rows of a workload's file, and how a file is to be read.  Pure."""

from typing import Any

import msgspec

from bench.workload.request_bodies import Api
from bench.workload.schedule import BLOCK_TOKENS

# Of English, in the vocabularies of today's models.
CHARS_PER_TOKEN = 4


class TraceRow(msgspec.Struct, frozen=True):
    """One request of a file.

    Attributes:
        at_s: from the first request of the file; 0 where it has no times.
        prompt_tokens: an estimate where the file has text and no count.
        blocks: ids of the prompt's blocks of *block_tokens* tokens; empty where there are none.
        text, messages, body, fields, answer: as in Call.
        model: what the file asks for; empty where it does not say.
        session: rows of one session are sent one after the other; empty for a row by itself.
        delay_s: from the answer of the row before it in its session; None for the first one.
        recalls: what was said before in its session precedes it.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    block_tokens: int = BLOCK_TOKENS
    text: str = ""
    messages: tuple[dict[str, Any], ...] = ()
    body: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    answer: str = ""
    model: str = ""
    session: str = ""
    delay_s: float | None = None
    recalls: bool = False


class FileRows(msgspec.Struct, frozen=True, kw_only=True):
    """What a file asks for.

    Attributes:
        timed: it says when each request came.
        left_out: how many of its requests cannot be sent, by why.
        left_out_tokens: prompt tokens of those.
    """

    rows: list[TraceRow]
    timed: bool
    left_out: dict[str, int] = {}
    left_out_tokens: int = 0


class ReadingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a file is read for.

    Attributes:
        output_tokens: asked of requests whose output length the file does not say.
        block_tokens: size of the blocks in it; None for its format's.
        ignored_fields: fields that are left out on request.
        max_turns: of a conversation; None for all.
        recorded_answers: keep the answers that a file has, instead of what the model really says.
    """

    api: Api = Api.COMPLETIONS
    stream: bool = True
    output_tokens: int = 256
    block_tokens: int | None = None
    ignored_fields: frozenset[str] = frozenset()
    max_turns: int | None = None
    recorded_answers: bool = False
