"""When requests are better sent a few at a time.  Pure.

A step that reads a prompt is dearer for everybody who decodes in it, however little it reads: it is
launched kernel by kernel, and its attention takes longer over every sequence (on an H200, 9.8 to
16.5 ms of launching and 1.8 times the time per token of KV cache; docs/benchmarks/twin.md).  While
engines have steps without prompts, a prompt that is sent to a replica which reads none is read at
once, and that is best for all.  Where nearly every step of every replica reads one, two prompts in
one step leave another step free, and everybody decodes faster.
"""

from servekit.routing.load_tracker import ReplicaLoad

# Steps that a replica takes for each prompt that comes to it.  With more than the most, steps
# without prompts are no rarity; with fewer than the fewest no group leaves a step free.
MOST_STEPS = 1.67
FEWEST_STEPS = 0.33
# Tokens of KV cache that are read in a step, per token of the prompt, from which on a step that
# reads no prompt is worth the wait: on an H200 each adds 23 ns to a step with a prompt, of which a
# token takes 20 us, so that a quarter of what reading takes is saved.
LEAST_CACHED = 250

# A request follows the one before it where that costs at most this share of its wait.
WITHIN = 0.17
# And no more than so many go to one replica, one after the other.
MOST = 8

# How much of each gap between two requests goes into their mean; and the longest that is one:
# after a pause the mean would need thousands of requests.
_GAP_GAIN = 0.02
_MOST_GAP_S = 1.0


class PromptBatching:
    """Who got the last requests, and how fast they come."""

    __slots__ = ("_gap_s", "_in_a_row", "_replica", "_sent_at_s")

    def __init__(self) -> None:
        self._replica: ReplicaLoad | None = None
        self._in_a_row = 0
        self._gap_s = _MOST_GAP_S
        self._sent_at_s = float("-inf")

    def sent(self, replica: ReplicaLoad, now_s: float) -> None:
        """A request was sent to *replica*."""
        gap_s = min(now_s - self._sent_at_s, _MOST_GAP_S)
        self._gap_s += _GAP_GAIN * (gap_s - self._gap_s)
        self._sent_at_s = now_s
        if replica is self._replica:
            self._in_a_row += 1
        else:
            self._replica = replica
            self._in_a_row = 1

    def open(self, prompt_tokens: int, replicas: int, now_s: float) -> ReplicaLoad | None:
        """Return the replica that should get the next request too; None where none should.

        None should as long as the engine's speed and its cache are unknown.
        """
        replica = self._replica
        if replica is None or replica.tokens_per_s is None or self._in_a_row >= MOST:
            return None
        # A step gives every running request a token, so that tokens per second are steps.
        steps = self._gap_s * replicas * replica.tokens_per_s
        if not FEWEST_STEPS < steps < MOST_STEPS:
            return None
        return replica if _cached(replica, now_s) >= LEAST_CACHED * prompt_tokens else None


def _cached(replica: ReplicaLoad, now_s: float) -> float:
    """Return the tokens that the KV cache of *replica* holds and has room for more beside."""
    load = replica.engine_load(now_s)
    if load is None or load.kv_usage is None or load.kv_tokens is None:
        return 0.0
    if load.waiting is not None and load.waiting > MOST:
        # They wait for memory: prompts that are sent together are not read together.
        return 0.0
    return load.kv_usage * load.kv_tokens
