"""One engine, step by step, as vLLM's V1 scheduler takes them.  Pure: time is an argument.

    engine.submit(request, now)      queue it, or refuse it
    engine.begin(now)                schedule a step; when it ends, or None without work
    engine.end()                     what the step brought, at the time it ended

Whoever drives it waits (or lets virtual time pass) until `engine.busy_until` between `begin` and
`end`.  Decode steps in which nothing changes may be taken many at a time (`begin(now, most=…)`);
a request that arrives meanwhile cuts the run short, so `busy_until` is read anew after `submit`.

The rules, with the vLLM code they follow (vllm/v1/core/sched/scheduler.py, 0.26 to 0.33):

- A step has a budget of `max_num_batched_tokens`.  Running requests are served first, in the order
  of admission: one token for each that decodes, then the rest of an unfinished prompt.  What is
  left goes to waiting requests, first come first served (`schedule`).
- A prompt larger than the budget is cut into chunks.  As a waiting request is only admitted while
  budget is left, at most one prompt is unfinished, and it is the last in the running order.
- A request is admitted while fewer than `max_num_seqs` run and its whole prompt finds free blocks
  (`scheduler_reserve_full_isl`); otherwise it blocks those behind it.
- Cached leading blocks of the prompt are taken over, but for the last token, which must be
  computed to have something to sample from (`get_computed_blocks`).  Blocks are cached when they
  are scheduled, so that a request in the same step can already hit them.
- Where a running sequence needs a block and none is free, the last of the running order is
  preempted: its blocks are freed and it waits, before all others, to be computed anew, output
  included.  In such a step nobody is admitted.
- With asynchronous scheduling, the default, a step is scheduled while the one before it computes:
  what arrives during a step can only enter the step after the next (`step_with_batch_queue`).
"""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, sqrt

from servekit.enginesim.blocks import BlockPool
from servekit.enginesim.profile import StepProfile
from servekit.errors.tree import EngineRefused, PromptTooLong, RequestInvalid, SettingInvalid
from servekit.metrics.engine_load import EngineLoad


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The arguments of `vllm serve` that shape a schedule, and the memory that is left for it.

    Attributes:
        num_blocks: KV-cache blocks of block_size tokens.
        segment_tokens: tokens per hash in `Request.segments`, a multiple of block_size.
        max_in_flight: requests waiting or running before others are refused
            (`--max-num-queued-reqs`); None for no limit.
    """

    num_blocks: int
    max_model_len: int = 8192
    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    block_size: int = 16
    segment_tokens: int = 16
    prefix_caching: bool = True
    async_scheduling: bool = True
    max_in_flight: int | None = None

    def __post_init__(self) -> None:
        if self.segment_tokens % self.block_size:
            raise SettingInvalid(
                f"segment_tokens is {self.segment_tokens}; it is a multiple of block_size "
                f"({self.block_size})"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise SettingInvalid(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}, below max_num_seqs "
                f"({self.max_num_seqs}); every sequence needs a token per step"
            )


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine must know of a request.

    Attributes:
        output_tokens: tokens after which it ends, at least 1.
        segments: chained hash of each full segment of the prompt, from its beginning.
    """

    id: int
    prompt_tokens: int
    output_tokens: int
    segments: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class Sequence:
    """A request in an engine.

    Attributes:
        arrived_s: when it was submitted.
        admitted_s: when it was first scheduled.
        first_token_s: when its first token came out.
        emitted: tokens that came out, not counting the run in progress.
        preemptions: how often it was computed anew.
        cached_tokens: prompt tokens found in the prefix cache at first admission.
        gone: it was aborted; what still comes out of it is nobody's.
    """

    request: Request
    arrived_s: float
    order: int
    admitted_s: float = -1.0
    first_token_s: float = -1.0
    emitted: int = 0
    preemptions: int = 0
    cached_tokens: int = 0
    # Tokens to compute before the next one can be sampled: the prompt, after a preemption also
    # what was generated.
    target: int = 0
    # Tokens in the KV cache, up to the tick at which decoding began.
    computed: int = 0
    held: int = 0
    joined: int = -1
    ends_at: int = -1
    ticket: int = -1
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A step, or a run of like decode steps, from `start_s` to `end_s`.

    Attributes:
        steps: how many; above 1 only where all are decode steps of the same sequences.
        first_step_s: seconds of the first of them.
        growth_s: by how much each is longer than the one before.
        decoded: sequences that decoded, one token each and step.
        sampled: sequences whose prompt was finished by it: their next token came out at its end.
        finished: sequences whose last token came out at its end.
        preempted: sequences that lost their place when it was scheduled.
    """

    start_s: float
    end_s: float
    steps: int
    first_step_s: float
    growth_s: float
    prefill_tokens: int
    decoded: int
    sampled: tuple[Sequence, ...]
    finished: tuple[Sequence, ...]
    preempted: tuple[Sequence, ...]


@dataclass(slots=True)
class Counters:
    """What an engine has done since its start.

    Attributes:
        prompt_tokens: of requests whose first token came out, cached ones included, as in vLLM.
        computed_tokens: prompt tokens that went through the model, again where preempted.
    """

    prompt_tokens: int = 0
    computed_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    refused: int = 0
    steps: int = 0
    finished: int = 0
    aborted: int = 0


class Engine:
    """The scheduler and the KV cache of one engine."""

    def __init__(self, config: EngineConfig, profile: StepProfile) -> None:
        self.config = config
        self.profile = profile
        self.pool = BlockPool(config.num_blocks, config.segment_tokens // config.block_size)
        self.counters = Counters()
        self._sequences: dict[int, Sequence] = {}
        self._arriving: deque[Sequence] = deque()
        self._waiting: deque[Sequence] = deque()
        # In the order of admission; decoding ones and, last, the unfinished prompt.
        self._running: dict[int, Sequence] = {}
        self._unfinished: Sequence | None = None
        self._decoding = 0
        self._decode_kv = 0
        # Decode steps so far.  A decoding sequence is not touched while it decodes: it knows the
        # tick at which it joined and the tick at which it ends.
        self._tick = 0
        self._ends: list[tuple[int, int, Sequence]] = []
        # How many decoding sequences need a new block at a tick, by the tick modulo block_size.
        self._block_phases = [0] * config.block_size
        self._step: Step | None = None
        # Arrivals up to here may enter the next step.
        self._seen_until = 0.0
        self._ended_s = float("-inf")
        self._orders = 0
        self._tickets = 0
        self._leaving: list[Sequence] = []

    @property
    def busy_until(self) -> float | None:
        """When the step in progress ends; None between steps."""
        return self._step.end_s if self._step else None

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or running."""
        return not self._sequences

    @property
    def in_flight(self) -> int:
        return len(self._sequences)

    def submit(self, request: Request, now: float) -> Sequence:
        """Queue *request*.

        Raises:
            EngineRefused: as many as `max_in_flight` are here already; with status 503.
            PromptTooLong: it can never fit.
            RequestInvalid: it has no prompt, or asks for no output.
        """
        config = self.config
        if config.max_in_flight is not None and len(self._sequences) >= config.max_in_flight:
            self.counters.refused += 1
            raise EngineRefused(
                f"{len(self._sequences)} requests are in flight, the limit is "
                f"{config.max_in_flight}; retry on another instance",
                status=503,
            )
        most = min(config.max_model_len, config.num_blocks * config.block_size)
        if request.output_tokens < 1 or request.prompt_tokens < 1:
            raise RequestInvalid("a request has at least one prompt token and one output token")
        if request.prompt_tokens + request.output_tokens > most:
            raise PromptTooLong(
                f"{request.prompt_tokens} prompt and {request.output_tokens} output tokens are "
                f"more than the engine holds ({most})"
            )
        self._orders += 1
        sequence = Sequence(request, now, self._orders, target=request.prompt_tokens)
        self._sequences[request.id] = sequence
        self._arriving.append(sequence)
        self._cut(now)
        return sequence

    def abort(self, request_id: int, now: float) -> bool:
        """Drop a request, at the end of the step in progress.  False where it is not here."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return False
        sequence.gone = True
        self.counters.aborted += 1
        if sequence in self._arriving:
            self._arriving.remove(sequence)
        elif sequence.order not in self._running:
            self._waiting.remove(sequence)
        else:
            self._leaving.append(sequence)
            self._cut(now)
            if self._step is None:
                self._drop_leaving()
        return True

    def begin(self, now: float, most: int = 1, slowdown: float = 1.0) -> float | None:
        """Schedule the next step and return when it ends; None where there is nothing to do, or
        nothing that fits a KV cache that has shrunk.

        *most* is how many like decode steps it may stand for; *slowdown* is how much longer they
        take than alone on the GPU.
        """
        if self._step is not None:
            raise AssertionError("a step is in progress; end() comes first")
        self._receive()
        preempted: list[Sequence] = []
        self._grow_decoding(preempted)
        prefill = _Prefill(self.config.max_num_batched_tokens - self._decoding)
        if self._unfinished is not None:
            self._continue_prompt(self._unfinished, prefill, preempted)
        if not preempted or not self._running:
            self._admit(prefill, now)
        self._step = step = self._plan(now, most, prefill, preempted, slowdown)
        return step.end_s if step else None

    def end(self) -> Step:
        """End the step in progress and return what it brought."""
        step = self._step
        if step is None:
            raise AssertionError("no step is in progress; begin() comes first")
        self._step = None
        last_step_s = step.first_step_s + step.growth_s * (step.steps - 1)
        self._seen_until = step.end_s - last_step_s
        self._ended_s = step.end_s
        self._advance(step.steps, step.decoded)
        self.counters.steps += step.steps
        self.counters.generation_tokens += step.decoded * step.steps + len(step.sampled)
        self.counters.computed_tokens += step.prefill_tokens
        for sequence in step.sampled:
            if not sequence.emitted:
                self.counters.prompt_tokens += sequence.request.prompt_tokens
            self._start_decoding(sequence, step.end_s)
        for sequence in step.finished:
            self._finish(sequence)
        self._drop_leaving()
        return step

    def load(self, now: float | None = None) -> EngineLoad:
        """Return what /metrics would say: as of *now* within a run of steps, else of its start.

        Requests that no schedule has looked at yet do not count as waiting, as in vLLM.
        """
        step = self._step
        done = self._steps_done(now)
        decoded = step.decoded if step else 0
        blocks = self._blocks_needed(1, min(done + 1, step.steps)) if step and done else 0
        counters = self.counters
        total = self.pool.total
        return EngineLoad(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_usage=1.0 - (self.pool.free - blocks) / total if total else 0.0,
            prefix_queries=counters.prefix_queries,
            prefix_hits=counters.prefix_hits,
            preemptions=counters.preemptions,
            prompt_tokens=counters.prompt_tokens,
            generation_tokens=counters.generation_tokens + decoded * done,
        )

    def emitted(self, sequence: Sequence) -> int:
        """Return how many tokens of *sequence* came out in steps that ended."""
        since = self._tick - sequence.joined if sequence.joined >= 0 else 0
        return sequence.emitted + since

    def forget_prefixes(self) -> bool:
        """Empty the prefix cache.  False, and nothing happens, while requests run."""
        return self.pool.forget()

    # Scheduling.

    def _receive(self) -> None:
        """Let those wait who arrived in time to be seen by this step's schedule."""
        arriving = self._arriving
        if not self.config.async_scheduling or not (self._running or self._waiting):
            self._waiting.extend(arriving)
            arriving.clear()
        while arriving and arriving[0].arrived_s <= self._seen_until:
            self._waiting.append(arriving.popleft())

    def _grow_decoding(self, preempted: list[Sequence]) -> None:
        """Take the blocks that decoding sequences need for one more token."""
        while (need := self._block_phases[self._tick % self.config.block_size]) > self.pool.free:
            preempted.append(self._preempt_last())
        if need:
            self.pool.take(need)

    def _continue_prompt(
        self, sequence: Sequence, prefill: "_Prefill", preempted: list[Sequence]
    ) -> None:
        chunk = min(sequence.target - sequence.computed, prefill.budget)
        if self._new_blocks(sequence, chunk) > self.pool.free:
            preempted.append(self._preempt_last())
            return
        self._compute(sequence, chunk, prefill)

    def _admit(self, prefill: "_Prefill", now: float) -> None:
        waiting = self._waiting
        while waiting and prefill.budget > 0 and len(self._running) < self.config.max_num_seqs:
            sequence = waiting[0]
            hits, idle = self._matched(sequence)
            if not self._fits(sequence, hits, idle):
                return
            waiting.popleft()
            if sequence.admitted_s < 0:
                sequence.admitted_s = now
            self._running[sequence.order] = sequence
            self._take_over_cached(sequence, hits)
            chunk = min(sequence.target - sequence.computed, prefill.budget)
            self._compute(sequence, chunk, prefill)

    def _fits(self, sequence: Sequence, hits: int, idle: int) -> bool:
        """Whether the whole of what must be computed finds free blocks, beside the *idle* ones
        that its cached prefix lies in."""
        pool = self.pool
        needed = _blocks(sequence.target, self.config.block_size) - hits * pool.per_segment
        return needed + idle <= pool.free

    def _matched(self, sequence: Sequence) -> tuple[int, int]:
        if not self.config.prefix_caching:
            return 0, 0
        # The last token is computed in any case.
        most = (sequence.target - 1) // self.config.segment_tokens
        return self.pool.match(sequence.request.segments, most)

    def _take_over_cached(self, sequence: Sequence, hits: int) -> None:
        self.pool.hold(sequence.request.segments, hits)
        sequence.held = hits
        sequence.computed = hits * self.config.segment_tokens
        if not sequence.preemptions:
            sequence.cached_tokens = sequence.computed
            if self.config.prefix_caching:
                self.counters.prefix_queries += sequence.target
                self.counters.prefix_hits += sequence.computed

    def _new_blocks(self, sequence: Sequence, chunk: int) -> int:
        size = self.config.block_size
        return _blocks(sequence.computed + chunk, size) - _blocks(sequence.computed, size)

    def _compute(self, sequence: Sequence, chunk: int, prefill: "_Prefill") -> None:
        """Schedule *chunk* tokens of a prompt."""
        self.pool.take(self._new_blocks(sequence, chunk))
        prefill.add(chunk, sequence.computed)
        sequence.computed += chunk
        if self.config.prefix_caching:
            self._publish(sequence)
        if sequence.computed == sequence.target:
            prefill.sampled.append(sequence)
            self._unfinished = None
        else:
            self._unfinished = sequence

    def _publish(self, sequence: Sequence) -> None:
        """Cache the segments that are filled now.  A copy of a cached one ends the chain: what
        follows it stays the sequence's own, which costs a later request its hit there."""
        segments = sequence.request.segments
        full = min(len(segments), sequence.computed // self.config.segment_tokens)
        while sequence.held < full and self.pool.publish(segments[sequence.held]):
            sequence.held += 1

    def _preempt_last(self) -> Sequence:
        """Free the last of the running order and let it wait before all others."""
        _, sequence = self._running.popitem()
        if sequence.joined >= 0:
            self._stop_decoding(sequence)
        else:
            self._unfinished = None
        self._free(sequence)
        sequence.target = sequence.request.prompt_tokens + sequence.emitted
        sequence.computed = 0
        sequence.preemptions += 1
        self.counters.preemptions += 1
        self._waiting.appendleft(sequence)
        return sequence

    # The step.

    def _plan(
        self,
        now: float,
        most: int,
        prefill: "_Prefill",
        preempted: list[Sequence],
        slowdown: float,
    ) -> Step | None:
        decoded = self._decoding
        if not decoded and not prefill.tokens:
            return None
        kv = self._decode_kv + decoded
        seconds = self.profile.step_s(prefill.tokens, prefill.attended, decoded, kv)
        if now > self._ended_s:
            # Scheduling and launching are hidden behind the step before, where there is one.
            seconds += self.profile.idle_start_s
        seconds *= slowdown
        steps, growth = 1, 0.0
        alike = not prefill.tokens and not self._arriving and not preempted
        if most > 1 and alike and now <= self._ended_s:
            steps = self._like_steps(most)
            growth = self.profile.kv_token_s * decoded * slowdown
        return Step(
            start_s=now,
            end_s=now + _run_s(steps, seconds, growth),
            steps=steps,
            first_step_s=seconds,
            growth_s=growth,
            prefill_tokens=prefill.tokens,
            decoded=decoded,
            sampled=tuple(prefill.sampled),
            finished=self._finishing(steps, prefill.sampled),
            preempted=tuple(preempted),
        )

    def _like_steps(self, most: int) -> int:
        """Return how many decode steps can follow without a change in who runs."""
        self._drop_ended()
        steps = min(most, self._ends[0][0] - self._tick)
        size = self.config.block_size
        if self.pool.free >= self._decoding * (steps // size + 1):
            return steps
        free = self.pool.free
        for ahead in range(1, steps):
            free -= self._block_phases[(self._tick + ahead) % size]
            if free < 0:
                return ahead
        return steps

    def _finishing(self, steps: int, sampled: Iterable[Sequence]) -> tuple[Sequence, ...]:
        last = self._tick + steps
        self._drop_ended()
        done = [s for s in sampled if s.emitted + 1 == s.request.output_tokens]
        while self._ends and self._ends[0][0] <= last:
            done.append(heapq.heappop(self._ends)[2])
            self._drop_ended()
        return tuple(done)

    def _drop_ended(self) -> None:
        """Drop entries of sequences that were preempted or aborted."""
        ends = self._ends
        while ends and ends[0][1] != ends[0][2].ticket:
            heapq.heappop(ends)

    def _cut(self, now: float) -> None:
        """End a run of steps with the one that computes at *now*."""
        step = self._step
        if step is None or step.steps == 1:
            return
        done = self._steps_done(now)
        keep = min(step.steps, done + 1)
        if keep == step.steps:
            return
        for sequence in step.finished:
            heapq.heappush(self._ends, (sequence.ends_at, sequence.ticket, sequence))
        self._step = Step(
            start_s=step.start_s,
            end_s=step.start_s + _run_s(keep, step.first_step_s, step.growth_s),
            steps=keep,
            first_step_s=step.first_step_s,
            growth_s=step.growth_s,
            prefill_tokens=0,
            decoded=step.decoded,
            sampled=(),
            finished=(),
            preempted=(),
        )

    def _steps_done(self, now: float | None) -> int:
        """Return how many steps of the run in progress have ended by *now*."""
        step = self._step
        if step is None or now is None or step.steps == 1:
            return 0
        passed = now - step.start_s
        first, growth = step.first_step_s, step.growth_s
        if passed < first:
            return 0
        # passed = n * first + growth * n * (n - 1) / 2, solved for n.
        half = first - growth / 2
        root = sqrt(half * half + 2 * growth * passed)
        done = int(2 * passed / (half + root))
        while done > 0 and _run_s(done, first, growth) > passed:
            done -= 1
        while done < step.steps and _run_s(done + 1, first, growth) <= passed:
            done += 1
        return done

    def _blocks_needed(self, start: int, stop: int) -> int:
        """Return the blocks that decoding takes from tick + start up to tick + stop."""
        size = self.config.block_size
        whole, rest = divmod(stop - start, size)
        first = self._tick + start
        part = sum(self._block_phases[(first + n) % size] for n in range(rest))
        return whole * self._decoding + part

    def _advance(self, steps: int, decoded: int) -> None:
        if not decoded:
            return
        if steps > 1:
            # The first step's blocks were taken when it was scheduled.
            self.pool.take(self._blocks_needed(1, steps))
        self._tick += steps
        self._decode_kv += decoded * steps

    def _start_decoding(self, sequence: Sequence, now: float) -> None:
        sequence.emitted += 1
        if sequence.first_token_s < 0:
            sequence.first_token_s = now
        left = sequence.request.output_tokens - sequence.emitted
        sequence.joined = self._tick
        sequence.ends_at = self._tick + left
        self._decoding += 1
        self._decode_kv += sequence.computed
        self._block_phases[(self._tick - sequence.computed) % self.config.block_size] += 1
        self._tickets += 1
        sequence.ticket = self._tickets
        if left:
            heapq.heappush(self._ends, (sequence.ends_at, sequence.ticket, sequence))

    def _stop_decoding(self, sequence: Sequence) -> None:
        """Bring what *sequence* holds up to date and take it out of the decoding ones."""
        since = self._tick - sequence.joined
        size = self.config.block_size
        self._block_phases[(sequence.joined - sequence.computed) % size] -= 1
        sequence.emitted += since
        sequence.computed += since
        sequence.joined = sequence.ticket = -1
        self._decoding -= 1
        self._decode_kv -= sequence.computed

    def _finish(self, sequence: Sequence) -> None:
        if sequence.gone:
            return
        self._stop_decoding(sequence)
        del self._running[sequence.order]
        del self._sequences[sequence.request.id]
        self._free(sequence)
        self.counters.finished += 1

    def _free(self, sequence: Sequence) -> None:
        blocks = _blocks(sequence.computed, self.config.block_size)
        held = sequence.request.segments[: sequence.held]
        self.pool.release(held, blocks - sequence.held * self.pool.per_segment)
        sequence.held = 0

    def _drop_leaving(self) -> None:
        """Free what aborted requests hold."""
        for sequence in self._leaving:
            del self._running[sequence.order]
            if sequence.joined >= 0:
                self._stop_decoding(sequence)
            elif sequence is self._unfinished:
                self._unfinished = None
            self._free(sequence)
        self._leaving.clear()


class _Prefill:
    """The prompt tokens of a step as it is scheduled."""

    __slots__ = ("attended", "budget", "sampled", "tokens")

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.tokens = 0
        self.attended = 0.0
        self.sampled: list[Sequence] = []

    def add(self, chunk: int, before: int) -> None:
        self.budget -= chunk
        self.tokens += chunk
        self.attended += chunk * (before + chunk / 2)


def _blocks(tokens: int, size: int) -> int:
    return ceil(tokens / size)


def _run_s(steps: int, first: float, growth: float) -> float:
    return steps * first + growth * (steps * (steps - 1) / 2)
