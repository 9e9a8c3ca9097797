"""The tokens of prompts, asked for at the engines, and who has them cached."""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence

import msgspec
import xxhash

from loadbalancer.kvevents.events import FollowedReplica
from servekit.errors.tree import ServeError
from servekit.relay.upstream_pool import UpstreamPool
from servekit.routing.exact_index import ExactPrompt, prompt_chain

# A request must not wait for its tokens longer than this; it is then routed without.
TIMEOUT_S = 0.25
# Prompts that are asked for again, as by a retry, are remembered: 64 MiB of tokens at most.
_MOST_TOKENS_KEPT = 8_000_000
_PATH = "/tokenize"


class TokenQuestion(msgspec.Struct, frozen=True):
    """What is to be tokenized.

    Attributes:
        body: of a request to /tokenize; empty where *tokens* are the prompt.
        salt: the request's cache_salt.
    """

    model: str
    body: bytes = b""
    tokens: tuple[int, ...] = ()
    salt: str = ""


class _Answer(msgspec.Struct, frozen=True):
    tokens: list[int]


_decode = msgspec.json.Decoder(_Answer).decode


class KvKnowledge:
    """What is known of the engines' caches, for a prompt at a time.

    Attributes:
        failures: prompts whose tokens could not be had (count).
    """

    def __init__(self, replicas: Mapping[str, FollowedReplica], now: Callable[[], float]) -> None:
        self._replicas = replicas
        self._now = now
        self._kept: OrderedDict[int, array[int]] = OrderedDict()
        self._kept_tokens = 0
        self.failures = 0

    async def prompt(self, question: TokenQuestion, upstream: UpstreamPool) -> ExactPrompt | None:
        """Return the prompt of *question*, tokenized by *upstream*; None where that, or the size
        of a block, cannot be had."""
        block_tokens = next((r.block_tokens for r in self._replicas.values() if r.block_tokens), 0)
        if not block_tokens:
            return None
        made_s = self._now()
        tokens = await self._tokens(question, upstream)
        if not tokens:
            return None
        lora: Hashable = question.model if self._is_adapter(question.model) else None
        # The last token is computed in any case.
        chain = prompt_chain(tokens[:-1], block_tokens, question.salt or None, lora)
        return ExactPrompt(chain, block_tokens, len(tokens), self.held, made_s)

    def held(self, replica: str, chain: Sequence[int]) -> int | None:
        """Return how many of the first blocks of *chain* *replica* has; None: unknown."""
        known = self._replicas.get(replica)
        return None if known is None else known.held(chain, self._now())

    def expect(self, replica: str, prompt: ExactPrompt) -> None:
        """*replica* has read *prompt*: it must say which blocks it stored."""
        known = self._replicas.get(replica)
        if known is not None and len(known.ranks) == 1:
            held = known.held(prompt.chain, self._now())
            if held is not None and held < len(prompt.chain):
                known.ranks[0].expect(self._now(), prompt.made_s)

    def forget(self, replica: str) -> None:
        """*replica* was restarted; its events will say what it has."""
        known = self._replicas.get(replica)
        for rank in known.ranks if known is not None else ():
            rank.blocks.cleared()

    def _is_adapter(self, model: str) -> bool:
        return any(rank.has_lora(model) for r in self._replicas.values() for rank in r.ranks)

    async def _tokens(self, question: TokenQuestion, upstream: UpstreamPool) -> "array[int]":
        if question.tokens:
            return array("Q", question.tokens)
        key = xxhash.xxh3_64_intdigest(question.body)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        try:
            tokens = array("Q", await self._ask(question.body, upstream))
        except (ServeError, msgspec.DecodeError, OverflowError, OSError):
            self.failures += 1
            return array("Q")
        self._keep(key, tokens)
        return tokens

    async def _ask(self, body: bytes, upstream: UpstreamPool) -> list[int]:
        status, answer = await upstream.post(_PATH, body, TIMEOUT_S)
        return _decode(answer).tokens if status == 200 else []

    def _keep(self, key: int, tokens: "array[int]") -> None:
        self._kept[key] = tokens
        self._kept_tokens += len(tokens)
        while self._kept_tokens > _MOST_TOKENS_KEPT:
            _, gone = self._kept.popitem(last=False)
            self._kept_tokens -= len(gone)
