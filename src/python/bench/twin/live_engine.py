"""A live engine that is measured: prompts of exact length, and the times of their tokens."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import msgspec

from bench.target.arms import model_cards
from bench.workload.request_bodies import FIRST_TOKEN
from servekit.client.client import COMPLETIONS, Client
from servekit.client.outcome import Fault
from servekit.errors.tree import EngineRefused, EngineUnreachable, SettingInvalid
from servekit.metrics.engine_load import read_engine_load
from servekit.metrics.exposition import samples
from servekit.timing.clock import SystemClock
from servekit.wire.openai import CompletionRequest, StreamOptions

_encode = msgspec.json.Encoder().encode

# A tiny test model has a vocabulary of a few hundred tokens; what is asked for is then taken
# modulo this.
SMALLEST_VOCABULARY = 250

# Tokens that are a printable character in every common vocabulary: letters in byte-level BPE, and
# the bytes of capital letters in SentencePiece.  Asked for only where a model says nothing visible.
_PRINTABLE = b',"allowed_token_ids":[70,71,72,73,74,75,76,77,78,79,80]}'

# The prompt with which every measurement starts, so that nothing is compiled or allocated in it.
WARM_UP = ((64, 8), (512, 8))


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """One answer: seconds from sent to first and last token, and the gaps between tokens.

    Attributes:
        gaps_s: between tokens; all equal to the mean where events and tokens do not match one to
            one, as when a token is half a character and has no text yet.
        each_seen: whether every token came with text, so that its time is known.
    """

    sent_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    last_s: float
    gaps_s: tuple[float, ...]
    each_seen: bool


class LiveEngine:
    """One model of one engine, over HTTP."""

    def __init__(self, url: str, model: str, max_model_len: int, seed: int) -> None:
        self.url = url
        self.model = model
        self.max_model_len = max_model_len
        self._clock = SystemClock()
        self._client = Client(url, self._clock)
        self._random = Random(seed)
        self._failure = ""
        self._only_printable = False

    def now(self) -> float:
        return self._clock.now()

    async def sleep_until(self, when: float) -> None:
        await self._clock.sleep(when - self._clock.now())

    async def aclose(self) -> None:
        await self._client.aclose()

    def prompt(self, tokens: int) -> list[int]:
        """Return *tokens* token ids that no earlier prompt began with."""
        first = FIRST_TOKEN if self.max_model_len > 4096 else 3
        last = FIRST_TOKEN + 20_000 if first == FIRST_TOKEN else SMALLEST_VOCABULARY
        return [self._random.randrange(first, last) for _ in range(tokens)]

    async def ask(self, prompt: int | list[int], output_tokens: int) -> ProbeAnswer | None:
        """Ask for exactly *output_tokens*; return None where the engine failed."""
        tokens = self.prompt(prompt) if isinstance(prompt, int) else prompt
        body = CompletionRequest(
            model=self.model,
            prompt=list(tokens),
            max_tokens=output_tokens,
            min_tokens=output_tokens,
            ignore_eos=True,
            temperature=0.0,
            stream=True,
            stream_options=StreamOptions(include_usage=True),
        )
        encoded = _encode(body)
        if self._only_printable:
            encoded = encoded[:-1] + _PRINTABLE
        outcome = await self._client.send(COMPLETIONS, encoded)
        # A token may have no text, and a short answer none at all.
        if outcome.error not in (None, Fault.EMPTY):
            self._failure = f"{outcome.error}: {outcome.detail}"
            return None
        # Without text only the end is known.
        times = outcome.content_s or (outcome.end_s,)
        answered = outcome.completion_tokens or output_tokens
        last_s = outcome.end_s - outcome.sent_s
        ttft_s = times[0] - outcome.sent_s
        gaps = tuple(after - before for before, after in pairwise(times))
        if answered != len(times):
            gaps = ((last_s - ttft_s) / max(1, answered - 1),) * (answered - 1)
        return ProbeAnswer(
            sent_s=outcome.sent_s,
            prompt_tokens=outcome.prompt_tokens or len(tokens),
            output_tokens=answered,
            ttft_s=ttft_s,
            last_s=last_s,
            gaps_s=gaps,
            each_seen=answered == len(outcome.content_s),
        )

    async def must_ask(self, prompt: int | list[int], output_tokens: int) -> ProbeAnswer:
        """Ask, or say why not.

        Raises:
            EngineRefused: the engine failed.
        """
        (answered,) = await self.must_ask_together([prompt], output_tokens)
        return answered

    async def must_ask_together(
        self, prompts: Sequence[int | list[int]], output_tokens: int
    ) -> list[ProbeAnswer]:
        """Ask all of *prompts* at once, or say why not.

        Random weights speak half characters, which have no text until they are whole: where a token
        was not seen, all are asked once more, from then on for printable ones only.

        Raises:
            EngineRefused: the engine failed.
        """
        asked = await asyncio.gather(*(self.ask(prompt, output_tokens) for prompt in prompts))
        answers = [answer for answer in asked if answer is not None]
        if len(answers) < len(asked):
            raise EngineRefused(
                f"{self.url}: a measured request failed: {self._failure}", status=500
            )
        if self._only_printable or all(answer.each_seen for answer in answers):
            return answers
        self._only_printable = True
        return await self.must_ask_together(prompts, output_tokens)

    async def warm_up(self) -> None:
        """Serve a few requests that do not count."""
        for prompt, output in WARM_UP:
            await self.must_ask(max(4, min(prompt, self.max_model_len - output - 1)), output)
        await self.must_ask_together([32] * 4, 8)

    async def prefix_hits(self) -> int:
        """Return the prompt tokens that the engine found in its cache since its start; 0 where it
        does not say."""
        status, body = await self._client.get("/metrics")
        if status != 200:
            return 0
        return read_engine_load(body.decode("utf-8", "replace"), self.model).prefix_hits or 0

    async def kv_cache_tokens(self) -> int | None:
        """Return the tokens that the engine's KV cache holds; None where it does not say."""
        status, body = await self._client.get("/metrics")
        if status != 200:
            return None
        name = "vllm:cache_config_info"
        for sample in samples(body.decode("utf-8", "replace"), {name}):
            blocks, size = sample.labels.get("num_gpu_blocks"), sample.labels.get("block_size")
            if blocks and size and blocks.isdigit() and size.isdigit():
                return int(blocks) * int(size)
        return None

    async def version(self) -> str:
        """Return what the engine says of itself."""
        _, body = await self._client.get("/version")
        return body.decode("utf-8", "replace")[:200]


async def open_engine(url: str, seed: int, model: str | None = None) -> LiveEngine:
    """Return the engine at *url*, for its only model or the one named.

    Raises:
        EngineUnreachable: there is no answer, or it reports no length.
        SettingInvalid: it does not serve *model*.
    """
    cards = await model_cards(url)
    names = [card.id for card in cards]
    chosen = model or names[0]
    if chosen not in names:
        raise SettingInvalid(f"--model {chosen!r}: {url} serves {', '.join(names)}")
    length = next((card.max_model_len for card in cards if card.id == chosen), None)
    if length is None:
        raise EngineUnreachable(f"{url}/v1/models reports no max_model_len; is it vLLM?")
    return LiveEngine(url, chosen, length, seed)
