"""Which replica has read which prefixes: a guess at the engines' caches.  Pure.

Kept as runs of blocks that came together, so that a look-up costs as much as the prompt has runs
(turns of its conversation) and not as much as it is long or the fleet is large, and a block takes
about 8 bytes.  As a block's hash stands for everything before it, a run is found by its first hash,
and two runs that agree in one hash agree in all before it.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from random import Random

import xxhash

from servekit.routing.load_tracker import ReplicaLoad

# Where an engine does not say how large its cache is.  An L4 holds a few hundred blocks of this
# size, an H200 with an 8B model about 8,000; being wrong costs a miss, which is what every other
# policy has each time.
BLOCKS_PER_REPLICA = 8000
# A cache that is said to be larger is remembered no further: 32 million tokens.
MOST_BLOCKS = 1 << 18

# 512 bytes of a prompt are about 128 tokens, eight of vLLM's blocks.
BLOCK_BYTES = 512

# What a run takes beside its blocks is worth about 40 of them, so that of short prompts fewer are
# remembered: memory stays below 60 bytes for each block of the capacity.
BLOCKS_PER_RUN = 8
# A run of a replica is looked for twice in vain, at most, before its log is written anew.
_STALE_SHARE = 2
_LEAST_LOG = 256

_WORD = (1 << 64) - 1


def prompt_blocks(
    prompt: bytes | memoryview, block_bytes: int = BLOCK_BYTES, seed: int = 0
) -> tuple[int, ...]:
    """Return chained hashes of the whole blocks of *prompt*.

    Two prompts share their first n hashes exactly where they share *seed* and their first n blocks.
    """
    whole = xxhash.xxh3_64(seed=seed)
    update, digest = whole.update, whole.intdigest
    view = memoryview(prompt)
    hashes: list[int] = []
    for end in range(block_bytes, len(view) + 1, block_bytes):
        update(view[end - block_bytes : end])
        hashes.append(digest())
    return tuple(hashes)


def blocks_held(replica: ReplicaLoad, block_tokens: int) -> int | None:
    """Return how many blocks the cache of *replica* holds by its last poll; None where unknown."""
    load = replica.last_load
    return None if load is None or load.kv_tokens is None else load.kv_tokens // block_tokens


class Run:
    """Blocks that follow one another, and who has read all of them.

    Nearly all runs have one reader, so that a table of readers is only made for more.

    Attributes:
        hashes: of its blocks.
        split_off: the run that was its end before it was cut; None of most.
    """

    __slots__ = ("_others", "_reader", "_used", "hashes", "split_off")

    def __init__(self, hashes: "array[int]", reader: str, used: int) -> None:
        self.hashes = hashes
        self.split_off: Run | None = None
        self._reader: str | None = reader
        self._used = used
        self._others: dict[str, int] | None = None

    def readers(self) -> Iterable[str]:
        if self._others is not None:
            return self._others
        return () if self._reader is None else (self._reader,)

    def used(self, replica: str) -> int | None:
        """Return when *replica* last read it; None where it never did, or has forgotten it."""
        if self._others is not None:
            return self._others.get(replica)
        return self._used if self._reader == replica else None

    def use(self, replica: str, used: int) -> None:
        if self._others is not None:
            self._others[replica] = used
        elif self._reader in (None, replica):
            self._reader, self._used = replica, used
        else:
            assert self._reader is not None
            self._others = {self._reader: self._used, replica: used}

    def leave(self, replica: str) -> bool:
        """*replica* has forgotten it; return whether nobody remembers it any more."""
        if self._others is None:
            self._reader = None
            return True
        self._others.pop(replica, None)
        if len(self._others) == 1:
            ((self._reader, self._used),) = self._others.items()
            self._others = None
        return False

    @property
    def forgotten(self) -> bool:
        return self._others is None and self._reader is None

    def alone(self, replica: str) -> bool:
        """Whether *replica* is the only one that has read it."""
        return self._others is None and self._reader == replica

    def common(self, blocks: Sequence[int], at: int) -> int:
        """Return how many of its blocks are those of *blocks* from *at* on; the first one is."""
        hashes = self.hashes
        low, high = 1, min(len(hashes), len(blocks) - at)
        if hashes[high - 1] == blocks[at + high - 1] & _WORD:
            return high
        # The hash of a block says whether all blocks before it are the same, too.
        while high - low > 1:
            middle = (low + high) // 2
            if hashes[middle - 1] == blocks[at + middle - 1] & _WORD:
                low = middle
            else:
                high = middle
        return low

    def cut(self, length: int) -> "Run":
        """Keep the first *length* blocks; return the rest, which the same replicas have read."""
        rest = Run(self.hashes[length:], "", self._used)
        rest._reader = self._reader
        rest._others = None if self._others is None else dict(self._others)
        rest.split_off = self.split_off
        del self.hashes[length:]
        self.split_off = rest
        return rest


class _Memory:
    """What one replica has read, the least recent first."""

    __slots__ = ("blocks", "log", "runs", "times")

    def __init__(self) -> None:
        self.blocks = 0
        self.runs = 0
        # Runs and when they were read.  An entry counts while its run has not been read again; it
        # counts for what was cut off from that run since, as well.
        self.log: deque[Run] = deque()
        self.times: deque[int] = deque()


Path = list[tuple[Run, int]]


class PrefixIndex:
    """Blocks by replica, the least recently used forgotten first."""

    def __init__(self, capacity: int = BLOCKS_PER_REPLICA) -> None:
        self._capacity = capacity
        self._starts: dict[int, Run] = {}
        self._memories: dict[str, _Memory] = {}
        self._time = 0

    def path(self, blocks: Sequence[int]) -> Path:
        """Return the runs that *blocks* begin with, and how many blocks of each."""
        starts = self._starts
        path: Path = []
        at = 0
        while at < len(blocks):
            run = starts.get(blocks[at] & _WORD)
            if run is None:
                break
            common = run.common(blocks, at)
            path.append((run, common))
            at += common
        return path

    def hits(self, blocks: Sequence[int]) -> dict[str, int]:
        """Return how many of the first *blocks* each replica holds; those with none are missing."""
        return path_hits(self.path(blocks)) if self._starts else {}

    def held_by(self, replica: str, blocks: Sequence[int]) -> int:
        """Return how many of the first *blocks* one replica holds."""
        return held_on(self.path(blocks), replica)

    def add(self, replica: str, blocks: Sequence[int], capacity: int | None = None) -> int:
        """*replica*, whose cache holds *capacity* blocks where that is known, reads *blocks*.

        Return how many of the first blocks it held before.
        """
        if not blocks:
            return 0
        memory = self._memories.get(replica)
        if memory is None:
            memory = self._memories[replica] = _Memory()
        path = self.path(blocks)
        held = held_on(path, replica)
        self._read(replica, memory, path, blocks)
        most = self._capacity if capacity is None else min(capacity, MOST_BLOCKS)
        if memory.blocks > most or memory.runs > most // BLOCKS_PER_RUN + BLOCKS_PER_RUN:
            self._forget_oldest(replica, memory, most)
        if len(memory.log) > _LEAST_LOG + _STALE_SHARE * memory.runs:
            self._rewrite(replica, memory)
        return held

    def forget(self, replica: str) -> None:
        """*replica* has lost its cache."""
        memory = self._memories.pop(replica, None)
        if memory is None:
            return
        for run, used in zip(memory.log, memory.times, strict=True):
            for piece in _pieces(run, replica, used):
                self._leave(piece, replica)

    def size(self, replica: str) -> int:
        """Return how many blocks *replica* is thought to hold."""
        memory = self._memories.get(replica)
        return 0 if memory is None else memory.blocks

    def _read(self, replica: str, memory: _Memory, path: Path, blocks: Sequence[int]) -> None:
        """Note that *replica* has read *blocks*, which begin with *path*.

        The end first: what all prompts share is at the front, and must be forgotten last.
        """
        if path and path[-1][1] < len(path[-1][0].hashes):
            self._cut(path[-1][0], path[-1][1])
        read = sum(common for _, common in path)
        if read < len(blocks):
            new = array("Q", (block & _WORD for block in blocks[read:]))
            last = path[-1][0] if path else None
            if last is not None and last.alone(replica):
                # The next turn of a conversation that nobody else has read.
                last.hashes.extend(new)
                memory.blocks += len(new)
            else:
                run = self._starts[new[0]] = Run(new, replica, self._tick())
                self._note(memory, run, run.used(replica) or 0)
                memory.blocks += len(new)
                memory.runs += 1
        for run, _ in reversed(path):
            if run.used(replica) is None:
                memory.blocks += len(run.hashes)
                memory.runs += 1
            used = self._tick()
            run.use(replica, used)
            self._note(memory, run, used)

    def _tick(self) -> int:
        self._time += 1
        return self._time

    def _note(self, memory: _Memory, run: Run, used: int) -> None:
        memory.log.append(run)
        memory.times.append(used)

    def _cut(self, run: Run, length: int) -> None:
        rest = run.cut(length)
        self._starts[rest.hashes[0]] = rest
        for name in rest.readers():
            self._memories[name].runs += 1

    def _forget_oldest(self, replica: str, memory: _Memory, most: int) -> None:
        most_runs = most // BLOCKS_PER_RUN + BLOCKS_PER_RUN
        log, times = memory.log, memory.times
        while (memory.blocks > most or memory.runs > most_runs) and log:
            pieces = _pieces(log[0], replica, times[0])
            # What was cut off lies behind the rest.
            for piece in reversed(pieces):
                excess = memory.blocks - most
                if excess <= 0 and memory.runs <= most_runs:
                    return
                if memory.runs <= most_runs and excess < len(piece.hashes):
                    self._shorten(replica, memory, piece, len(piece.hashes) - excess)
                    return
                memory.blocks -= len(piece.hashes)
                memory.runs -= 1
                self._leave(piece, replica)
            log.popleft()
            times.popleft()

    def _shorten(self, replica: str, memory: _Memory, run: Run, length: int) -> None:
        """Let *replica* forget all but the first *length* blocks of *run*."""
        memory.blocks -= len(run.hashes) - length
        if run.alone(replica):
            del run.hashes[length:]
            return
        self._cut(run, length)
        rest = run.split_off
        assert rest is not None
        memory.runs -= 1
        self._leave(rest, replica)

    def _leave(self, run: Run, replica: str) -> None:
        first = run.hashes[0]
        # Another run may begin there by now, if the one before this was forgotten first.
        if run.leave(replica) and self._starts.get(first) is run:
            del self._starts[first]

    def _rewrite(self, replica: str, memory: _Memory) -> None:
        """Drop the entries of the log that do not count any more."""
        kept = [
            (run, used)
            for run, used in zip(memory.log, memory.times, strict=True)
            if _pieces(run, replica, used)
        ]
        memory.log = deque(run for run, _ in kept)
        memory.times = deque(used for _, used in kept)


def path_hits(path: Path) -> dict[str, int]:
    """Return how many of the first blocks of *path* each replica holds."""
    lengths: dict[str, int] = {}
    before = 0
    for run, common in path:
        found = False
        for name in run.readers():
            if not before or lengths.get(name) == before:
                lengths[name] = before + common
                found = True
        if not found:
            break
        before += common
    return lengths


def held_on(path: Path, replica: str) -> int:
    """Return how many of the first blocks of *path* one replica holds."""
    length = 0
    for run, common in path:
        if run.used(replica) is None:
            break
        length += common
    return length


def longest_readers(path: Path, rng: Random, most: int) -> list[str]:
    """Return the replicas that have read the most of *path*: *most* of them, and of those that have
    read the same any."""
    found: dict[str, None] = {}
    for run, _ in reversed(path):
        names = [name for name in run.readers() if name not in found]
        left = most - len(found)
        found.update(dict.fromkeys(names if len(names) <= left else rng.sample(names, left)))
        if len(found) >= most:
            break
    return list(found)


def _pieces(run: Run, replica: str, used: int) -> list[Run]:
    """Return *run*, and what was cut off from it, as far as *replica* last read them at *used*."""
    pieces: list[Run] = []
    piece: Run | None = run
    while piece is not None:
        if piece.used(replica) == used:
            pieces.append(piece)
        while piece.split_off is not None and piece.split_off.forgotten:
            piece.split_off = piece.split_off.split_off
        piece = piece.split_off
    return pieces
