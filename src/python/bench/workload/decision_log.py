"""A load balancer's decision log -> the rows of a trace.  Pure.

The load balancer does not read answers, so that their lengths are guesses: of a stream, a token for
each piece that came; of a whole answer, a token for each four bytes beyond the envelope.
"""

import msgspec

from bench.workload.trace_rows import TraceRow
from servekit.errors.tree import WorkloadInvalid

# The blocks of a trace have 512 tokens, those of the load balancer about 128.
_BLOCKS_IN_ONE = 4
# OpenAI's JSON around an answer's text, as vLLM writes it.
_ENVELOPE_BYTES = 400
_BYTES_PER_TOKEN = 4


class _Request(msgspec.Struct, frozen=True):
    prompt_tokens: int
    blocks: tuple[int, ...] = ()


class _Line(msgspec.Struct, frozen=True):
    decided_at_s: float
    request: _Request
    outcome: str
    pieces: int
    answer_bytes: int | None = None


_decode = msgspec.json.Decoder(_Line).decode


def is_decision_log(text: str) -> bool:
    """Whether *text* begins as a decision log does."""
    return text.startswith('{"decided_at_s":')


def read_decisions(text: str, source: str) -> list[TraceRow]:
    """Return a row for each request of *text* that was answered, in the order they came, from 0 s.

    Raises:
        WorkloadInvalid: a line cannot be read, or no request was answered.
    """
    lines = [_read(line, f"{source}, line {n}") for n, line in enumerate(text.splitlines(), 1)]
    done = sorted((x for x in lines if x.outcome == "done"), key=lambda x: x.decided_at_s)
    if not done:
        raise WorkloadInvalid(f"{source}: contains no completed request")
    return [
        TraceRow(
            at_s=line.decided_at_s - done[0].decided_at_s,
            prompt_tokens=max(1, line.request.prompt_tokens),
            output_tokens=_output_tokens(line),
            # A block's hash stands for all before it: the last of four stands for the four.
            blocks=line.request.blocks[_BLOCKS_IN_ONE - 1 :: _BLOCKS_IN_ONE],
        )
        for line in done
    ]


def _read(line: str, where: str) -> _Line:
    try:
        return _decode(line)
    except msgspec.DecodeError as error:
        raise WorkloadInvalid(f"{where}: not a decision: {error}") from error


def _output_tokens(line: _Line) -> int:
    if line.answer_bytes is None:
        return max(1, line.pieces)
    return max(1, (line.answer_bytes - _ENVELOPE_BYTES) // _BYTES_PER_TOKEN)
