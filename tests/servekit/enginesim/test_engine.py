"""The scheduler: what enters a step, who waits, and that nobody is lost."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.enginesim.config import EngineConfig
from servekit.enginesim.engine import SimulatedEngine
from servekit.enginesim.sequence import EngineRequest
from servekit.errors.tree import EngineRefused, PromptTooLong, SettingInvalid
from tests.servekit.enginesim.driving import PROFILE, Outcome, drive, small_engine


def _segments(family: int, tokens: int) -> tuple[int, ...]:
    return tuple(family * 1000 + block for block in range(tokens // 16))


@st.composite
def _arrivals(draw: st.DrawFn) -> list[tuple[float, EngineRequest]]:
    """Up to 25 requests that together overflow 64 blocks, a third of them sharing prefixes."""
    now = 0.0
    arrivals = []
    for number in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([0.0, 0.001, 0.004, 0.03]))
        prompt = draw(st.integers(1, 400))
        output = draw(st.integers(1, 120))
        shared = draw(st.sampled_from([0, 1, 2]))
        segments = _segments(shared, prompt) if shared else ()
        arrivals.append((now, EngineRequest(number, prompt, output, segments)))
    return arrivals


@given(arrivals=_arrivals(), asynchronous=st.booleans())
def test_every_request_gets_exactly_its_tokens(
    arrivals: list[tuple[float, EngineRequest]], asynchronous: bool
) -> None:
    """Through chunks, shared prefixes and preemption no sequence is lost or decoded twice."""
    engine = small_engine(async_scheduling=asynchronous)

    outcome = drive(engine, arrivals)

    asked = {request.id: request.output_tokens for _, request in arrivals}
    assert outcome.last_s.keys() == asked.keys()
    tokens = sum(step.decoded * step.steps + len(step.sampled) for step in outcome.steps)
    assert tokens == sum(asked.values())
    assert engine.counters.generation_tokens == tokens


@given(arrivals=_arrivals())
def test_blocks_are_conserved(arrivals: list[tuple[float, EngineRequest]]) -> None:
    """When the last request has left, every block is free again."""
    engine = small_engine()

    drive(engine, arrivals)

    assert engine.pool.free == engine.pool.total
    assert engine.load().kv_usage == 0.0


@given(arrivals=_arrivals())
def test_runs_of_steps_change_nothing(arrivals: list[tuple[float, EngineRequest]]) -> None:
    """Taking like decode steps at once gives the times that single steps give."""
    single = drive(small_engine(), arrivals)
    bulk = drive(small_engine(), arrivals, most=1_000_000)

    assert bulk.first_s == pytest.approx(single.first_s, abs=1e-9)
    assert bulk.last_s == pytest.approx(single.last_s, abs=1e-9)
    assert bulk.preemptions == single.preemptions
    assert bulk.cached == single.cached


@given(arrivals=_arrivals(), leavers=st.sets(st.integers(0, 24)), after=st.floats(0.0, 0.3))
def test_aborted_requests_leave_nothing_behind(
    arrivals: list[tuple[float, EngineRequest]], leavers: set[int], after: float
) -> None:
    """Whoever is aborted, waiting or running, takes no block and no token of the others."""
    engine = small_engine()
    for when, request in arrivals:
        engine.submit(request, when)
    now = arrivals[-1][0]
    engine.begin(now, 1000)
    finished: set[int] = set()
    aborted = False
    while not engine.idle:
        until = engine.busy_until
        if not aborted and (until is None or until > now + after):
            aborted = True
            gone = {number for number in leavers if engine.abort(number, now + after)}
            if until is None and not engine.idle:
                engine.begin(now + after, 1000)
            continue
        step = engine.end()
        finished |= {s.request.id for s in step.finished if not s.gone}
        engine.begin(step.end_s, 1000)
    if engine.busy_until is not None:
        engine.end()

    assert engine.pool.free == engine.pool.total
    if aborted:
        assert finished == {request.id for _, request in arrivals} - gone


@given(prompt=st.integers(40, 900), first=st.integers(0, 56), more=st.integers(0, 56))
def test_longer_shared_prefix_never_delays_the_first_token(
    prompt: int, first: int, more: int
) -> None:
    """On an idle engine, more cached blocks mean the same or an earlier first token, also where
    large steps take their launch and a GPU that reads grows hot."""
    profile = replace(PROFILE, launch_s=(0.009,), hot_token_s=1e-5)

    def ttft(cached_blocks: int) -> float:
        engine = small_engine(max_model_len=1020, captured_tokens=64)
        engine.profile = profile
        known = min(cached_blocks * 16, prompt)
        segments = _segments(1, prompt)
        arrivals = []
        if known:
            arrivals.append((0.0, EngineRequest(1, known, 1, segments[: known // 16])))
        arrivals.append((100.0, EngineRequest(2, prompt, 1, segments)))
        return drive(engine, arrivals).first_s[2]

    assert ttft(first + more) <= ttft(first)


def test_prompt_is_cut_into_chunks_of_the_budget() -> None:
    """A prompt of three budgets takes three steps before its first token."""
    outcome = drive(small_engine(), [(0.0, EngineRequest(1, 384, 1))])

    assert [step.prefill_tokens for step in outcome.steps] == [128, 128, 128]


def test_decoding_sequences_are_served_before_prompts() -> None:
    """Each decoding sequence takes one token of the budget, the prompt gets the rest."""
    outcome = drive(
        small_engine(), [(0.0, EngineRequest(1, 16, 50)), (0.011, EngineRequest(2, 500, 2))]
    )

    mixed = [step for step in outcome.steps if step.prefill_tokens and step.decoded]
    assert mixed[0].decoded == 1
    assert mixed[0].prefill_tokens == 127


def test_asynchronous_scheduling_sees_an_arrival_one_step_late() -> None:
    """What arrives during a step enters the step after the next; without it, the next."""
    arrivals = [(0.0, EngineRequest(1, 16, 50)), (0.012, EngineRequest(2, 16, 1))]

    late = drive(small_engine(async_scheduling=True), arrivals).first_s[2]
    early = drive(small_engine(async_scheduling=False), arrivals).first_s[2]

    assert 0.004 < late - early < 0.007


def _large_step(launch_s: float, captured: int) -> tuple[SimulatedEngine, Outcome]:
    """A sequence decodes; another one's prompt of 100 tokens comes between two of its tokens."""
    config = EngineConfig(
        num_blocks=64, max_num_seqs=8, max_num_batched_tokens=128, captured_tokens=captured
    )
    engine = SimulatedEngine(config, replace(PROFILE, launch_s=(launch_s,)))
    return engine, drive(
        engine, [(0.0, EngineRequest(1, 16, 50)), (0.052, EngineRequest(2, 100, 1))]
    )


def test_launch_of_a_large_step_holds_back_the_tokens_before_it() -> None:
    """The token before a step that is no graph comes when that step is launched, not before."""
    _, outcome = _large_step(launch_s=0.009, captured=64)

    (large,) = (n for n, step in enumerate(outcome.steps) if step.prefill_tokens == 100)
    steps, came_s = outcome.steps, outcome.came_s
    assert came_s[large - 1] == pytest.approx(steps[large - 1].start_s + 0.009)
    assert came_s[large - 2] == steps[large - 2].end_s
    assert came_s[large] == steps[large].end_s


def test_launch_of_a_graph_holds_nothing_back() -> None:
    """Within the largest captured size a step is launched at once."""
    _, outcome = _large_step(launch_s=0.009, captured=512)

    assert outcome.came_s == [step.end_s for step in outcome.steps]


def test_launch_takes_no_time_from_the_gpu() -> None:
    """What is held back comes later; what follows does not."""
    held = _large_step(launch_s=0.004, captured=64)[1]
    free = _large_step(launch_s=0.0, captured=64)[1]

    assert held.last_s == free.last_s


def test_step_is_never_shorter_than_its_launch() -> None:
    """A GPU that waits for the CPU ends when the last kernel came."""
    _, outcome = _large_step(launch_s=0.050, captured=64)

    (large,) = (step for step in outcome.steps if step.prefill_tokens == 100)
    assert large.end_s - large.start_s > 0.040


def test_first_token_is_noted_when_it_came_out() -> None:
    """A sequence whose first token was held back says so."""
    config = EngineConfig(num_blocks=64, max_num_seqs=8, max_num_batched_tokens=64)
    engine = SimulatedEngine(
        replace(config, captured_tokens=16), replace(PROFILE, launch_s=(0.012,))
    )
    sequence = engine.submit(EngineRequest(1, 16, 5), 0.0)
    engine.submit(EngineRequest(2, 100, 1), 0.0)

    engine.begin(0.0)
    end_s = engine.end().end_s
    engine.begin(end_s)

    assert engine.late_s > 0
    assert sequence.first_token_s == end_s + engine.late_s


def test_gpu_that_has_just_read_prompts_reads_slower_until_it_cooled_down() -> None:
    """A prompt right behind another takes longer than alone, and one long after it does not."""
    hot = replace(PROFILE, hot_token_s=1e-4)

    def seconds(after_s: float) -> float:
        config = EngineConfig(num_blocks=64, max_num_seqs=8, max_num_batched_tokens=128)
        engine = SimulatedEngine(config, hot)
        arrivals = [(0.0, EngineRequest(1, 100, 1)), (after_s, EngineRequest(2, 100, 1))]
        last = drive(engine, arrivals).steps[-1]
        return last.end_s - last.start_s

    assert seconds(0.0051) > seconds(0.1) > seconds(5.0)
    assert seconds(5.0) == pytest.approx(PROFILE.step_s(100, 5000.0, 0, 0))


def test_launches_take_every_measured_time_equally_often() -> None:
    """The order has no pattern, the shares are the measured ones, and every run has the same."""
    profile = replace(PROFILE, launch_s=(1.0, 2.0, 3.0, 4.0))

    taken = [profile.nth_launch_s(number) for number in range(1, 401)]

    assert all(98 <= taken.count(value) <= 102 for value in profile.launch_s)
    assert taken == [profile.nth_launch_s(number) for number in range(1, 401)]


def test_last_admitted_is_preempted_when_blocks_run_out() -> None:
    """The youngest gives way, is computed anew and still gets all its tokens."""
    engine = small_engine(num_blocks=10)

    outcome = drive(engine, [(0.0, EngineRequest(1, 64, 90)), (0.0, EngineRequest(2, 64, 90))])

    assert outcome.preemptions == {1: 0, 2: 1}
    assert engine.counters.preemptions == 1


def test_request_waits_until_its_whole_prompt_fits() -> None:
    """A prompt is not started in the hope of blocks that are held now."""
    engine = small_engine(num_blocks=20)

    outcome = drive(engine, [(0.0, EngineRequest(1, 160, 20)), (0.001, EngineRequest(2, 200, 1))])

    assert outcome.first_s[2] > outcome.last_s[1]


def test_max_num_seqs_bounds_the_batch() -> None:
    """No step has more sequences than allowed."""
    arrivals = [(0.0, EngineRequest(number, 8, 20)) for number in range(20)]

    outcome = drive(small_engine(), arrivals)

    assert max(step.decoded + len(step.sampled) for step in outcome.steps) == 8


def test_cached_prompt_still_computes_its_last_token() -> None:
    """A prompt that is cached as a whole computes its last block: something must be sampled."""
    segments = _segments(1, 64)
    outcome = drive(
        small_engine(),
        [(0.0, EngineRequest(1, 64, 1, segments)), (1.0, EngineRequest(2, 64, 1, segments))],
    )

    assert outcome.cached == {1: 0, 2: 48}
    assert outcome.steps[-1].prefill_tokens == 16


def test_cached_tokens_count_as_prompt_tokens() -> None:
    """vLLM's prompt_tokens_total has every token of a prompt, wherever it came from."""
    engine = small_engine()
    segments = _segments(1, 64)
    drive(
        engine, [(0.0, EngineRequest(1, 64, 1, segments)), (1.0, EngineRequest(2, 64, 1, segments))]
    )

    assert engine.counters.prompt_tokens == 128
    assert engine.counters.computed_tokens == 80


def test_full_engine_refuses() -> None:
    """Beyond the limit a request is refused with vLLM's status, and counted."""
    engine = small_engine(max_in_flight=1)
    engine.submit(EngineRequest(1, 8, 1), 0.0)

    with pytest.raises(EngineRefused, match="limit is 1") as refusal:
        engine.submit(EngineRequest(2, 8, 1), 0.0)

    assert refusal.value.status == 503
    assert engine.counters.refused == 1


def test_request_that_can_never_fit_is_refused_at_once() -> None:
    """It would otherwise wait for ever and hold up everyone behind it."""
    with pytest.raises(PromptTooLong, match="more than the engine holds"):
        small_engine(num_blocks=4).submit(EngineRequest(1, 60, 10), 0.0)


def test_load_counts_within_a_run_of_steps() -> None:
    """A poll in the middle of a run sees the tokens and blocks of its moment."""
    engine = small_engine()
    engine.submit(EngineRequest(1, 16, 200), 0.0)
    engine.begin(0.0)
    end = engine.end().end_s
    engine.begin(end, 1000)

    early, late = engine.load(end + 0.001), engine.load(end + 0.5)

    assert early.running == late.running == 1
    assert early.generation_tokens == 1
    assert (late.generation_tokens or 0) > 90
    assert (late.kv_usage or 0) > (early.kv_usage or 0)


def test_settings_that_cannot_work_are_refused() -> None:
    """A budget below the batch would leave sequences without a token."""
    with pytest.raises(SettingInvalid, match="below max_num_seqs"):
        EngineConfig(num_blocks=8, max_num_seqs=64, max_num_batched_tokens=32)
    with pytest.raises(SettingInvalid, match="multiple of block_size"):
        EngineConfig(num_blocks=8, segment_tokens=24)


@given(prefill=st.integers(0, 8192), sequences=st.integers(0, 512), kv=st.integers(0, 900_000))
def test_steps_take_longer_the_more_they_hold(prefill: int, sequences: int, kv: int) -> None:
    """Step time grows with prompt tokens, sequences and context."""
    base = PROFILE.step_s(prefill, 0.0, sequences, kv)

    assert PROFILE.step_s(prefill + 100, 0.0, sequences, kv) >= base
    assert PROFILE.step_s(prefill, 0.0, sequences + 10, kv) > base
    assert PROFILE.step_s(prefill, 0.0, sequences, kv + 1000) > base


@pytest.mark.parametrize(("each", "looked_up"), [(False, 2 * 512), (True, 8 * 512)])
def test_failed_lookups_are_counted_as_by_the_release(each: bool, looked_up: int) -> None:
    """A prompt that waits for blocks is looked up at each step: up to 0.26 that counts."""
    engine = small_engine(counts_failed_lookups=each, max_num_batched_tokens=1024)
    # The first holds 33 of 64 blocks for six more steps; the second needs as many.
    drive(engine, [(0.0, EngineRequest(1, 512, 7)), (0.0, EngineRequest(2, 512, 1))])

    assert engine.counters.prefix_queries == looked_up


def test_prompts_are_not_looked_up_without_prefix_caching() -> None:
    engine = small_engine(counts_failed_lookups=True, prefix_caching=False)
    drive(engine, [(0.0, EngineRequest(1, 512, 7)), (0.0, EngineRequest(2, 512, 1))])

    assert engine.counters.prefix_queries == 0


def test_a_request_that_arrives_as_a_step_is_scheduled_is_in_it() -> None:
    """One that is a moment later is in the next."""
    firsts = []
    for late in (0.0, 1e-6):
        second = (0.005 + late, EngineRequest(2, 16, 1))
        outcome = drive(small_engine(), [(0.0, EngineRequest(1, 16, 20)), second])
        firsts.append(outcome.first_s[2])

    assert firsts[1] - firsts[0] > 0.004


def test_a_step_is_one_unless_more_are_asked_for() -> None:
    engine = small_engine()
    engine.submit(EngineRequest(1, 16, 20), 0.0)
    engine.begin(0.0)
    engine.begin(engine.end().end_s)

    assert engine.end().steps == 1


def test_two_steps_may_be_one_run() -> None:
    """As many as are asked for, and no more."""
    engine = small_engine()
    engine.submit(EngineRequest(1, 16, 20), 0.0)
    engine.begin(0.0)
    engine.begin(engine.end().end_s, 2)

    assert engine.end().steps == 2


def test_tokens_of_a_run_count_when_it_has_ended() -> None:
    """From the first decoding step of all."""
    engine = small_engine()
    sequence = engine.submit(EngineRequest(1, 16, 20), 0.0)
    seen = [engine.emitted(sequence)]
    engine.begin(0.0)
    for _ in range(3):
        until = engine.end().end_s
        seen.append(engine.emitted(sequence))
        engine.begin(until)

    assert seen == [0, 1, 2, 3]


def test_a_prompt_that_just_fits_is_not_preempted() -> None:
    """Its last chunk takes the last free block."""
    engine = small_engine(num_blocks=16, max_num_batched_tokens=128)
    outcome = drive(engine, [(0.0, EngineRequest(1, 255, 1))])

    assert outcome.preemptions == {1: 0}
    assert [step.prefill_tokens for step in outcome.steps] == [128, 127]


def test_a_preempted_request_is_computed_anew_from_its_beginning() -> None:
    """Prompt and what was generated, all of it."""
    engine = small_engine(num_blocks=8, max_num_batched_tokens=128, prefix_caching=False)
    outcome = drive(engine, [(0.0, EngineRequest(n, 48, 30)) for n in (1, 2)])

    computed = engine.counters.computed_tokens
    again = computed - 2 * 48
    assert outcome.preemptions == {1: 0, 2: 1}
    assert again == 48 + 16
