"""Conversations that go on, as chats and agents have them: arrivals for a fleet.  Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from bench.fleetsim.scenario import Arrival

BLOCK_TOKENS = 128
# An answer takes about this long for each of its tokens; the next turn comes after it.
_TOKEN_S = 0.012
# A conversation ends before the context is full.
_MOST_TOKENS = 30_000


@dataclass(frozen=True, slots=True)
class Talks:
    """What conversations are like; ranges are of equally likely token counts.

    Attributes:
        groups: system prompts, with their tools, that conversations share.
        shared: their tokens.
        turns: of a conversation, in the mean (geometric).
        said: tokens of what a user says, or a tool returns, before each turn.
        answer: tokens of an answer.
        pause_s: between an answer and the next turn, in the mean (exponential).
        forks: share of the turns after which a second conversation, such as a subagent's, goes on
            from what was said so far.
    """

    groups: int
    shared: tuple[int, int]
    turns: float
    said: tuple[int, int]
    answer: tuple[int, int]
    pause_s: float
    forks: float = 0.0


def talks(kind: Talks, model: str, rate: float, number: int, rng: random.Random) -> list[Arrival]:
    """Return *number* requests at *rate* a second, in order of time.

    The fleet is looked at while it is full of conversations: those that began long before are in
    the middle of theirs.
    """
    groups = [rng.randint(*kind.shared) for _ in range(kind.groups)]
    length_s = number / rate
    per_turn_s = kind.pause_s + _TOKEN_S * sum(kind.answer) / 2
    before_s = kind.turns * per_turn_s
    made: list[Arrival] = []
    spread = 1.0 + kind.forks * kind.turns / 2
    starts = rate / kind.turns / spread
    now_s, conversation = -before_s, 0
    while now_s < length_s:
        now_s += rng.expovariate(starts)
        group = rng.randrange(kind.groups)
        conversation += 1
        _talk(kind, model, (now_s, length_s), group, groups[group], conversation, rng, made)
    made.sort(key=lambda arrival: arrival.at_s)
    return made


def _talk(
    kind: Talks,
    model: str,
    span_s: tuple[float, float],
    group: int,
    shared: int,
    conversation: int,
    rng: random.Random,
    made: list[Arrival],
) -> None:
    """Add the turns of a conversation from the first of *span_s* to the last, and of its forks."""
    at_s, end_s = span_s
    # What has been said, as pieces: whose, and how many tokens; a fork goes on from a copy.
    open_talks = [(at_s, [(("group", group), shared)], f"{conversation}")]
    forks = 0
    while open_talks:
        at_s, pieces, name = open_talks.pop()
        while at_s < end_s and sum(tokens for _, tokens in pieces) < _MOST_TOKENS:
            pieces.append(((name, len(pieces)), rng.randint(*kind.said)))
            output = rng.randint(*kind.answer)
            tokens = sum(size for _, size in pieces)
            if at_s >= 0.0:
                segments = _segments(pieces)
                made.append(Arrival(at_s, model, tokens, output, segments, str(conversation)))
            at_s += _TOKEN_S * output + rng.expovariate(1.0 / kind.pause_s)
            pieces.append(((name, len(pieces)), output))
            if rng.random() < kind.forks and forks < 3:
                forks += 1
                open_talks.append((at_s, list(pieces), f"{name}/{forks}"))
            if rng.random() < 1.0 / kind.turns:
                break


def _segments(pieces: Sequence[tuple[object, int]]) -> tuple[int, ...]:
    """Return the chained hash of each full block: it depends on the pieces that reach into it."""
    found: list[int] = []
    tokens = known = 0
    for whose, size in pieces:
        known = _hash(known, whose, size)
        tokens += size
        while (len(found) + 1) * BLOCK_TOKENS <= tokens:
            found.append(_hash(known, len(found)))
    return tuple(found)


def _hash(*parts: object) -> int:
    return xxhash.xxh3_64_intdigest(repr(parts).encode())
