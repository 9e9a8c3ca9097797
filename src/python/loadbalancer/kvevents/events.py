"""vLLM's KV-cache events: what they say, and whether they can be believed.  Pure.

A publisher numbers its messages from 0 and drops what its buffers cannot hold; the numbers are all
that tells.  Until a gap has been filled, and whenever events are missing, malformed, or do not come
although the engine works, a replica counts as not followed, and is judged by what it was sent.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import msgspec
import xxhash

from servekit.routing.exact_index import EngineBlocks

# An engine that was sent a prompt with blocks to store says so within this time, or is not heard.
SILENCE_S = 5.0

_decode = msgspec.msgpack.Decoder().decode


class KvEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event; fields that do not matter here are left out."""

    type: str
    block_hashes: list[int | bytes] = []
    parent_block_hash: int | bytes | None = None
    token_ids: list[int] = []
    block_size: int = 0
    lora_name: str | None = None
    medium: str | None = None
    group_idx: int | None = None
    extra_keys: list[Any] | None = None


# Releases before 0.27 wrote events as arrays: their type, then their fields in this order.
_ARRAYS = {
    "BlockStored": (
        "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium",
        "lora_name", "extra_keys", "group_idx",
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
    "AllBlocksCleared": (),
}  # fmt: skip

# The cache that a prompt's blocks are looked up in first.
_GPU = (None, "GPU", "CPU")


class FollowedRank:
    """One publisher of a replica: an engine, or one of its data-parallel ranks.

    Attributes:
        following: whether what is known of its cache is complete.
        expected: the number of the next message.
        blocks: what is in the cache.
        verified: whether the last message, sent again, was the same; None where it was not sent:
            an engine that began anew may have come as far as the one before it had.
        replayed_to: the number up to which messages were sent again, and may come twice.
        problems: why it was not followed, by how often (count).
    """

    def __init__(self) -> None:
        self.blocks = EngineBlocks()
        self.following = False
        self.expected = 0
        self.verified: bool | None = None
        self.replayed_to = 0
        self._last = 0
        self.problems: dict[str, int] = {}
        self._silent_since_s: float | None = None
        self._heard_s = float("-inf")
        self._loras: set[str] = set()

    def missing(self, number: int) -> bool:
        """Whether the publisher must be asked what came before *number*, which it has published:
        messages were lost, or it is another one that begins anew."""
        if number < self.replayed_to:
            # It was on its way while it was sent again.
            return False
        self.replayed_to = 0
        return number != self.expected

    def caught_up(self) -> None:
        """All that the publisher still had was sent again."""
        self.replayed_to = self.expected

    def message(self, number: int, payload: bytes, now_s: float = 0.0) -> None:
        """Take a message, published now or sent again."""
        self._heard_s = now_s
        if number < self.expected:
            if number == self.expected - 1:
                self.verified = xxhash.xxh3_64_intdigest(payload) == self._last
            return
        if number > self.expected:
            self._lost("gap")
        elif number == 0:
            self.following = True
        self.expected = number + 1
        self._last = xxhash.xxh3_64_intdigest(payload)
        self._silent_since_s = None
        try:
            events = _events_of(payload)
        except (msgspec.DecodeError, msgspec.ValidationError, TypeError, ValueError):
            self._lost("malformed")
            return
        for event in events:
            self._apply(event)

    def nothing_published(self) -> None:
        """The engine has sent all it ever did: its cache is known."""
        if not self.expected:
            self.following = True

    def restarted(self) -> None:
        """The engine began anew, with an empty cache."""
        self.blocks = EngineBlocks()
        self.following = False
        self.expected = 0

    def lost(self, why: str) -> None:
        """What is known is not complete any more, until the engine starts anew or is emptied."""
        self._lost(why)

    def expect(self, now_s: float, since_s: float) -> None:
        """The engine must have said something since *since_s*, when it got a prompt with blocks to
        store, or say it now that its first token has come."""
        if self._silent_since_s is None and self._heard_s < since_s:
            self._silent_since_s = now_s

    def alive(self, now_s: float) -> bool:
        """Whether the cache is known, and the engine is heard."""
        silent = self._silent_since_s
        return self.following and (silent is None or now_s - silent < SILENCE_S)

    def has_lora(self, model: str) -> bool:
        return model in self._loras

    def _apply(self, event: KvEvent) -> None:
        if event.type == "AllBlocksCleared":
            self.blocks.cleared()
            # Whatever was missed is gone too.
            self.following = True
        elif event.medium not in _GPU or event.group_idx not in (None, 0):
            return
        elif event.type == "BlockRemoved":
            self.blocks.removed(event.block_hashes)
        elif event.type == "BlockStored":
            if event.lora_name:
                self._loras.add(event.lora_name)
            placed = self.blocks.stored(
                event.block_hashes,
                event.parent_block_hash,
                event.token_ids,
                event.block_size,
                [_key(keys) for keys in event.extra_keys or ()],
            )
            if not placed:
                self._lost("unplaced")

    def _lost(self, why: str) -> None:
        self.problems[why] = self.problems.get(why, 0) + 1
        self.following = False


def _events_of(payload: bytes) -> list[KvEvent]:
    """Return the events of a message: `[time, [event, ...], data_parallel_rank?]`."""
    batch = _decode(payload)
    if not isinstance(batch, list) or len(batch) < 2 or not isinstance(batch[1], list):
        raise ValueError("a batch is a list of a time and events")
    return [msgspec.convert(_as_map(event), KvEvent) for event in batch[1]]


def _as_map(event: object) -> object:
    if isinstance(event, list) and event and isinstance(event[0], str):
        fields = _ARRAYS.get(event[0], ())
        return {"type": event[0], **dict(zip(fields, event[1:], strict=False))}
    return event


def _key(keys: object) -> Hashable:
    """Return what sets a block apart, as something that can be compared."""
    return tuple(map(_key, keys)) if isinstance(keys, list) else _plain(keys)


def _plain(key: object) -> Hashable:
    return key if isinstance(key, Hashable) else repr(key)


class FollowedReplica:
    """The ranks of one replica; a prompt may go to any of them."""

    def __init__(self, ranks: int = 1) -> None:
        self.ranks = [FollowedRank() for _ in range(ranks)]

    def held(self, chain: Sequence[int], now_s: float) -> int | None:
        """Return how many of the first blocks of *chain* are cached; None where that is unknown."""
        if not all(rank.alive(now_s) for rank in self.ranks):
            return None
        return max(rank.blocks.held(chain) for rank in self.ranks)

    @property
    def block_tokens(self) -> int | None:
        return next((r.blocks.block_tokens for r in self.ranks if r.blocks.block_tokens), None)
