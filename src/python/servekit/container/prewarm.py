"""Send the engine what it will be sent, before anybody waits for it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from servekit.client.client import COMPLETIONS, Client
from servekit.client.outcome import Fault, Outcome
from servekit.timing.clock import Clock
from servekit.wire.openai import CompletionRequest

# The seed's lengths and its ten tokens of output.
LENGTHS = (128, 256, 512, 1024, 2048)
MAX_TOKENS = 10

# Several requests in one step run other kernels than one alone.
BATCHES = (2, 4, 8)
BATCH_TOKENS = 128

# A vocabulary smaller than this was never published; where config.json does not state one, ids
# below it are in every one.
_ANY_VOCABULARY = 256

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class WarmupShape:
    """Requests to send at once.

    Attributes:
        prompt_tokens: tokens of each prompt.
        requests: how many.
    """

    prompt_tokens: int
    requests: int = 1


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What became of one shape.

    Attributes:
        error: why it failed; None where every request was answered as asked.
    """

    shape: WarmupShape
    seconds: float
    error: str | None


def plan_shapes(max_model_len: int | None, max_num_seqs: int) -> tuple[WarmupShape, ...]:
    """Return what to send: each length alone, then batches.

    A prompt is clipped so that it and its output fit *max_model_len*.
    """
    room = max_model_len - MAX_TOKENS if max_model_len is not None else max(LENGTHS)
    lengths = sorted({min(length, room) for length in LENGTHS if min(length, room) > 0})
    batches = sorted({min(size, max_num_seqs) for size in BATCHES} - {1})
    batch_tokens = min(BATCH_TOKENS, room)
    return (
        *(WarmupShape(length) for length in lengths),
        *(WarmupShape(batch_tokens, size) for size in batches if batch_tokens > 0),
    )


def token_ids(count: int, start: int, vocab_size: int | None) -> list[int]:
    """Return *count* ids from the middle half of the vocabulary: special tokens are at its ends.

    Another *start* gives another first token, so that no prompt finds another's prefix cached and
    is computed in part only.
    """
    size = vocab_size or _ANY_VOCABULARY
    first, span = size // 4, max(1, size // 2)
    return [first + (start * 7919 + position) % span for position in range(count)]


async def prewarm(
    client: Client,
    model: str,
    shapes: Sequence[WarmupShape],
    *,
    vocab_size: int | None,
    clock: Clock,
) -> list[WarmUp]:
    """Send every shape, one after the other, and return what became of them.  Never raises for
    the engine's faults: a container that is not warm is slow, not broken."""
    results = []
    sent = 0
    for shape in shapes:
        start_s = clock.now()
        bodies = [
            _request(model, token_ids(shape.prompt_tokens, sent + number, vocab_size))
            for number in range(shape.requests)
        ]
        sent += shape.requests
        outcomes = await asyncio.gather(
            *(client.send(COMPLETIONS, body, stream=False) for body in bodies)
        )
        results.append(WarmUp(shape, clock.now() - start_s, _error(shape, outcomes)))
    return results


def _request(model: str, prompt: list[int]) -> bytes:
    return _encode(
        CompletionRequest(
            model=model,
            prompt=list[str | int | list[int]](prompt),
            max_tokens=MAX_TOKENS,
            # A random model may end at once; a shape that is asked for is a shape that is run.
            ignore_eos=True,
            temperature=0.0,
        )
    )


def _error(shape: WarmupShape, outcomes: Sequence[Outcome]) -> str | None:
    for outcome in outcomes:
        # Tokens that decode to no text were computed all the same.
        if not outcome.ok and outcome.error != Fault.EMPTY:
            return f"{outcome.error}: {outcome.detail}"
        if outcome.prompt_tokens not in (None, shape.prompt_tokens):
            return f"the engine counted {outcome.prompt_tokens} tokens"
    return None
