"""One engine, step by step, as vLLM's V1 scheduler takes them.  Pure: time is an argument.

    engine.submit(request, now)      queue it, or refuse it
    engine.begin(now)                schedule a step; when it ends, or None without work
    engine.end()                     what the step brought, at the time it ended

The caller waits (or lets virtual time pass) until `engine.busy_until` between `begin` and
`end`.  The tokens of a step come out `engine.late_s` after its end, which is known once the next
one has begun.  Decode steps in which nothing changes may be taken many at a time
(`begin(now, most=…)`); a request that arrives meanwhile cuts the run short, so `busy_until` is read
anew after `submit`.

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
  included.  No request is admitted in such a step.
- With asynchronous scheduling, the default, a step is scheduled while the one before it computes:
  what arrives during a step can only enter the step after the next (`step_with_batch_queue`).
- The thread that schedules also launches, and only then looks at what the step before brought.  A
  step within `max_cudagraph_capture_size` is one launch; a larger one is hundreds, during which
  finished tokens lie there and newcomers are not seen (`execute_model`, `non_block=True`).
"""

from collections import deque
from math import ceil, exp

from servekit.enginesim.blocks import BlockPool
from servekit.enginesim.config import EngineConfig
from servekit.enginesim.decode_batch import DecodeBatch
from servekit.enginesim.sequence import EngineRequest, Sequence
from servekit.enginesim.step import Counters, EngineStep, run_s
from servekit.enginesim.step_profile import StepProfile
from servekit.errors.tree import EngineRefused, PromptTooLong, RequestInvalid
from servekit.metrics.engine_load import EngineLoad


class SimulatedEngine:
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
        self._decoding = DecodeBatch(config.block_size)
        self._step: EngineStep | None = None
        # How much later than its end the tokens of the step before the one in progress come out,
        # and who had a token sampled in it.
        self.late_s = 0.0
        self._sampled: tuple[Sequence, ...] = ()
        # When the step in progress was, or the next one is, scheduled, and when it was launched.
        self._scheduled_s = 0.0
        self._launched_s = 0.0
        self._launches = 0
        self._ended_s = float("-inf")
        # How hot the GPU was at the end of its last step with prompt tokens, and when that was.
        self._heat = 0.0
        self._heat_s = 0.0
        self._orders = 0
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

    def submit(self, request: EngineRequest, now: float) -> Sequence:
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
        prefill = _Prefill(self.config.max_num_batched_tokens - self._decoding.number)
        if self._unfinished is not None:
            self._continue_prompt(self._unfinished, prefill, preempted)
        if not preempted or not self._running:
            self._admit(prefill, now)
        self._step = step = self._plan(now, most, prefill, preempted, slowdown)
        return step.end_s if step else None

    def end(self) -> EngineStep:
        """End the step in progress and return what it brought."""
        step = self._step
        if step is None:
            raise AssertionError("no step is in progress; begin() comes first")
        self._step = None
        last_step_s = step.first_step_s + step.growth_s * (step.steps - 1)
        self._scheduled_s = max(self._launched_s, step.end_s - last_step_s)
        self._ended_s = step.end_s
        self._advance(step.steps, step.decoded)
        self.counters.steps += step.steps
        self.counters.generation_tokens += step.decoded * step.steps + len(step.sampled)
        self.counters.computed_tokens += step.prefill_tokens
        self._sampled = step.sampled
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
        done = step.done_by(now) if step and now is not None else 0
        decoded = step.decoded if step else 0
        blocks = self._decoding.blocks_between(1, min(done + 1, step.steps)) if step and done else 0
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
            kv_tokens=total * self.config.block_size,
        )

    def first_token_s(self, request: EngineRequest, now: float) -> float:
        """Return when *request* would have its first token if it were submitted now, about: those
        that wait are read before it, in steps in which those that decode now go on doing so."""
        unread = sum(self._unread(one.request) for one in (*self._arriving, *self._waiting))
        if self._unfinished is not None:
            unread += self._unfinished.target - self._unfinished.computed
        own = self._unread(request)
        left, before = unread + own, request.prompt_tokens - own
        then = max(now, self._step.end_s if self._step else now)
        decoding, kv = self._decoding.number, self._decoding.kv_tokens
        room = max(1, self.config.max_num_batched_tokens - decoding)
        while left > 0:
            chunk = min(left, room)
            pairs = min(chunk, own) * (before + min(chunk, own) / 2)
            then += self.profile.step_s(chunk, pairs, decoding, kv)
            left -= chunk
        return then

    def cached_tokens(self, request: EngineRequest) -> int:
        """Return how many of its prompt's tokens are in the prefix cache now."""
        most = (request.prompt_tokens - 1) // self.config.segment_tokens
        return self.pool.match(request.segments, most)[0] * self.config.segment_tokens

    def _unread(self, request: EngineRequest) -> int:
        return request.prompt_tokens - self.cached_tokens(request)

    def emitted(self, sequence: Sequence) -> int:
        """Return how many tokens of *sequence* came out in steps that ended."""
        return self._decoding.emitted(sequence)

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
        while arriving and arriving[0].arrived_s <= self._scheduled_s:
            self._waiting.append(arriving.popleft())

    def _grow_decoding(self, preempted: list[Sequence]) -> None:
        """Take the blocks that decoding sequences need for one more token."""
        while (need := self._decoding.blocks_now) > self.pool.free:
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
                if self.config.counts_failed_lookups:
                    self._count_lookup(sequence, hits * self.config.segment_tokens)
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
        self._count_lookup(sequence, sequence.computed)

    def _count_lookup(self, sequence: Sequence, hit_tokens: int) -> None:
        """Count a look into the prefix cache; vLLM counts those of preempted requests apart."""
        if self.config.prefix_caching and not sequence.preemptions:
            self.counters.prefix_queries += sequence.target
            self.counters.prefix_hits += hit_tokens

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
            self._decoding.leave(sequence)
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
    ) -> EngineStep | None:
        self.late_s = 0.0
        decoded = self._decoding.number
        if not decoded and not prefill.tokens:
            return None
        kv = self._decoding.kv_tokens + decoded
        heat = self._heat_at(now) if prefill.tokens else 0.0
        seconds = self.profile.step_s(prefill.tokens, prefill.attended, decoded, kv, heat)
        if now > self._ended_s:
            # Scheduling and launching are hidden behind the step before, where there is one.
            seconds += self.profile.idle_start_s
        seconds *= slowdown
        seconds = max(seconds, self._launch(now, prefill.tokens + decoded) - now)
        if prefill.tokens:
            self._warm(heat, now + seconds, seconds)
        steps, growth = 1, 0.0
        alike = not prefill.tokens and not self._arriving and not preempted
        if most > 1 and alike and now <= self._ended_s:
            steps = self._decoding.alike(most, self.pool.free)
            growth = self.profile.growth_s(decoded, kv) * slowdown
        return EngineStep(
            start_s=now,
            end_s=now + run_s(steps, seconds, growth),
            steps=steps,
            first_step_s=seconds,
            growth_s=growth,
            prefill_tokens=prefill.tokens,
            decoded=decoded,
            sampled=tuple(prefill.sampled),
            finished=(*_answered(prefill.sampled), *self._decoding.take_finishing(steps)),
            preempted=tuple(preempted),
        )

    def _launch(self, now: float, tokens: int) -> float:
        """Launch a step of *tokens* that begins *now* and return when that is done.

        Until then what the step before it brought is held back, if it follows one.
        """
        follows = self.config.async_scheduling and now <= self._ended_s
        scheduled = self._scheduled_s if follows else now
        self._launched_s = scheduled
        if tokens > self.config.captured_tokens:
            self._launches += 1
            self._launched_s += self.profile.nth_launch_s(self._launches)
        if follows and self._launched_s > now:
            self._hold_back(self._launched_s - now)
        return self._launched_s

    def _hold_back(self, seconds: float) -> None:
        """Let the tokens of the step before come out so much later."""
        self.late_s = seconds
        for sequence in self._sampled:
            if sequence.first_token_s == self._ended_s:
                sequence.first_token_s += seconds

    def _heat_at(self, now: float) -> float:
        return self._heat * exp((self._heat_s - now) / self.profile.hot_after_s)

    def _warm(self, heat: float, until: float, seconds: float) -> None:
        """Note how hot the GPU is after it read prompts for *seconds*."""
        self._heat = 1.0 - (1.0 - heat) * exp(-seconds / self.profile.hot_after_s)
        self._heat_s = until

    def _cut(self, now: float) -> None:
        """End a run of steps with the one that computes at *now*."""
        step = self._step
        if step is None or step.steps == 1:
            return
        keep = step.done_by(now) + 1
        if keep >= step.steps:
            return
        self._decoding.put_back(step.finished)
        self._step = step.first_of(keep)

    def _advance(self, steps: int, decoded: int) -> None:
        if not decoded:
            return
        if steps > 1:
            # The first step's blocks were taken when it was scheduled.
            self.pool.take(self._decoding.blocks_between(1, steps))
        self._decoding.advance(steps)

    def _start_decoding(self, sequence: Sequence, now: float) -> None:
        sequence.emitted += 1
        if sequence.first_token_s < 0:
            sequence.first_token_s = now
        self._decoding.join(sequence)

    def _finish(self, sequence: Sequence) -> None:
        if sequence.gone:
            return
        self._decoding.leave(sequence)
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
                self._decoding.leave(sequence)
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


def _answered(sampled: list[Sequence]) -> list[Sequence]:
    """Return those whose answer has but one token more."""
    return [s for s in sampled if s.emitted + 1 == s.request.output_tokens]
