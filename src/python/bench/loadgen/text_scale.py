"""Learn how a server counts our words: two short requests a model.  Input and output."""

from collections.abc import Sequence

import msgspec

from bench.loadgen.session import Endpoint
from bench.workload.request_bodies import PromptBook, TextScale
from bench.workload.schedule import BLOCK_TOKENS, Call
from servekit.client.client import Client
from servekit.timing.clock import SystemClock

# Long enough that a token more or less is a thousandth, and short enough for any context.
_SHORT_WORDS, _LONG_WORDS = 32, 1_056
_WORD_CHARS = 4
# A seed of its own: what is asked here is in no cache that the run meets.
_SEED = 2**31 - 1


async def learn_text_scales(
    url: str, models: Sequence[str], endpoint: Endpoint, fit: int | None
) -> dict[str, TextScale]:
    """Return how each of *models* counts words; those that do not say it are left out.

    *fit* is the most tokens that a request may have.
    """
    client = Client(
        url,
        SystemClock(),
        timeout_s=endpoint.timeout_s,
        api_key=endpoint.api_key,
        headers=endpoint.headers,
    )
    try:
        found = {model: await _learn(client, model, endpoint, fit) for model in models}
    finally:
        await client.aclose()
    return {model: scale for model, scale in found.items() if scale is not None}


async def _learn(
    client: Client, model: str, endpoint: Endpoint, fit: int | None
) -> TextScale | None:
    # A byte may be a token: four of them are a word.
    longest = _LONG_WORDS if fit is None else min(_LONG_WORDS, fit // (2 * _WORD_CHARS))
    counts = [await _tokens(client, model, endpoint, words) for words in (_SHORT_WORDS, longest)]
    short, long = counts
    if short is None or long is None or long <= short:
        return None
    chars_per_token = (longest - _SHORT_WORDS) * _WORD_CHARS / (long - short)
    return TextScale(chars_per_token, short - _SHORT_WORDS * _WORD_CHARS / chars_per_token)


async def _tokens(client: Client, model: str, endpoint: Endpoint, words: int) -> int | None:
    """Return how many tokens a prompt of *words* has by the server's count."""
    blocks = tuple(range(-(-words // BLOCK_TOKENS)))
    call = Call(at_s=0.0, model=model, prompt_tokens=words, output_tokens=1, blocks=blocks)
    shape = msgspec.structs.replace(endpoint.shape, text_prompts=True, scales={})
    body = PromptBook(_SEED, shape).body(call)
    answered = await client.send(endpoint.where, body, stream=shape.streams)
    # A limit of one token may cut an answer before it has text: its counts are good all the same.
    return answered.prompt_tokens
