"""The sequences of an engine that decode, as one: nothing is touched while they do.  Pure.

Each knows the tick at which it joined and the tick at which it ends; a tick is a decode step.  How
many need a new block at a tick depends on the tick modulo the block size alone, so that a run of
any length costs what one step does.
"""

import heapq
from collections.abc import Iterable

from servekit.enginesim.sequence import Sequence


class DecodeBatch:
    """The decoding sequences of one engine.

    Attributes:
        number: how many they are.
        kv_tokens: what they hold in the KV cache, in all.
    """

    def __init__(self, block_size: int) -> None:
        self.number = 0
        self.kv_tokens = 0
        self._block_size = block_size
        self._tick = 0
        self._ends: list[tuple[int, int, Sequence]] = []
        # How many need a new block at a tick, by the tick modulo block_size.
        self._phases = [0] * block_size
        self._tickets = 0

    def join(self, sequence: Sequence) -> None:
        """Let *sequence* decode, whose prompt is computed and whose next token came out."""
        left = sequence.request.output_tokens - sequence.emitted
        sequence.joined = self._tick
        sequence.ends_at = self._tick + left
        self.number += 1
        self.kv_tokens += sequence.computed
        self._phases[(self._tick - sequence.computed) % self._block_size] += 1
        self._tickets += 1
        sequence.ticket = self._tickets
        if left:
            heapq.heappush(self._ends, (sequence.ends_at, sequence.ticket, sequence))

    def leave(self, sequence: Sequence) -> None:
        """Bring what *sequence* holds up to date and take it out."""
        since = self._tick - sequence.joined
        self._phases[(sequence.joined - sequence.computed) % self._block_size] -= 1
        sequence.emitted += since
        sequence.computed += since
        sequence.joined = sequence.ticket = -1
        self.number -= 1
        self.kv_tokens -= sequence.computed

    def emitted(self, sequence: Sequence) -> int:
        """Return how many tokens of *sequence* came out in steps that ended."""
        since = self._tick - sequence.joined if sequence.joined >= 0 else 0
        return sequence.emitted + since

    @property
    def blocks_now(self) -> int:
        """Blocks that the next step takes."""
        return self._phases[self._tick % self._block_size]

    def blocks_between(self, start: int, stop: int) -> int:
        """Return the blocks that the steps from *start* up to *stop*, counted from now, take."""
        whole, rest = divmod(stop - start, self._block_size)
        first = self._tick + start
        part = sum(self._phases[(first + n) % self._block_size] for n in range(rest))
        return whole * self.number + part

    def alike(self, most: int, free_blocks: int) -> int:
        """Return how many decode steps, at most *most*, can follow without a change in who runs."""
        self._drop_ended()
        size = self._block_size
        steps = min(most, self._ends[0][0] - self._tick)
        if free_blocks >= self.number * (steps // size + 1):
            return steps
        free = free_blocks
        for ahead in range(1, steps):
            free -= self._phases[(self._tick + ahead) % size]
            if free < 0:
                return ahead
        return steps

    def take_finishing(self, steps: int) -> list[Sequence]:
        """Return those whose last token comes out within *steps*; they are not returned again."""
        last = self._tick + steps
        done = []
        self._drop_ended()
        while self._ends and self._ends[0][0] <= last:
            done.append(heapq.heappop(self._ends)[2])
            self._drop_ended()
        return done

    def put_back(self, finishing: Iterable[Sequence]) -> None:
        """Undo `take_finishing`: the run ends before their last tokens."""
        for sequence in finishing:
            heapq.heappush(self._ends, (sequence.ends_at, sequence.ticket, sequence))

    def advance(self, steps: int) -> None:
        """Let *steps* pass."""
        self._tick += steps
        self.kv_tokens += self.number * steps

    def _drop_ended(self) -> None:
        """Drop entries of sequences that were preempted or aborted."""
        ends = self._ends
        while ends and ends[0][1] != ends[0][2].ticket:
            heapq.heappop(ends)
