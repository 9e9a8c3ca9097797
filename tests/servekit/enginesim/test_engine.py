"""The scheduler: what enters a step, who waits, and that nobody is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.enginesim.config import EngineConfig
from servekit.enginesim.sequence import Request
from servekit.errors.tree import EngineRefused, PromptTooLong, SettingInvalid
from tests.servekit.enginesim.driving import PROFILE, drive, small_engine


def _segments(family: int, tokens: int) -> tuple[int, ...]:
    return tuple(family * 1000 + block for block in range(tokens // 16))


@st.composite
def _arrivals(draw: st.DrawFn) -> list[tuple[float, Request]]:
    """Up to 25 requests that together overflow 64 blocks, a third of them sharing prefixes."""
    now = 0.0
    arrivals = []
    for number in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([0.0, 0.001, 0.004, 0.03]))
        prompt = draw(st.integers(1, 400))
        output = draw(st.integers(1, 120))
        shared = draw(st.sampled_from([0, 1, 2]))
        segments = _segments(shared, prompt) if shared else ()
        arrivals.append((now, Request(number, prompt, output, segments)))
    return arrivals


@given(arrivals=_arrivals(), asynchronous=st.booleans())
def test_every_request_gets_exactly_its_tokens(
    arrivals: list[tuple[float, Request]], asynchronous: bool
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
def test_blocks_are_conserved(arrivals: list[tuple[float, Request]]) -> None:
    """When the last request has left, every block is free again."""
    engine = small_engine()

    drive(engine, arrivals)

    assert engine.pool.free == engine.pool.total
    assert engine.load().kv_usage == 0.0


@given(arrivals=_arrivals())
def test_runs_of_steps_change_nothing(arrivals: list[tuple[float, Request]]) -> None:
    """Taking like decode steps at once gives the times that single steps give."""
    single = drive(small_engine(), arrivals)
    bulk = drive(small_engine(), arrivals, most=1_000_000)

    assert bulk.first_s == pytest.approx(single.first_s, abs=1e-9)
    assert bulk.last_s == pytest.approx(single.last_s, abs=1e-9)
    assert bulk.preemptions == single.preemptions
    assert bulk.cached == single.cached


@given(arrivals=_arrivals(), leavers=st.sets(st.integers(0, 24)), after=st.floats(0.0, 0.3))
def test_aborted_requests_leave_nothing_behind(
    arrivals: list[tuple[float, Request]], leavers: set[int], after: float
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
    """On an idle engine, more cached blocks mean the same or an earlier first token."""

    def ttft(cached_blocks: int) -> float:
        engine = small_engine(max_model_len=1020)
        known = min(cached_blocks * 16, prompt)
        segments = _segments(1, prompt)
        arrivals = []
        if known:
            arrivals.append((0.0, Request(1, known, 1, segments[: known // 16])))
        arrivals.append((100.0, Request(2, prompt, 1, segments)))
        return drive(engine, arrivals).first_s[2]

    assert ttft(first + more) <= ttft(first)


def test_prompt_is_cut_into_chunks_of_the_budget() -> None:
    """A prompt of three budgets takes three steps before its first token."""
    outcome = drive(small_engine(), [(0.0, Request(1, 384, 1))])

    assert [step.prefill_tokens for step in outcome.steps] == [128, 128, 128]


def test_decoding_sequences_are_served_before_prompts() -> None:
    """Each decoding sequence takes one token of the budget, the prompt gets the rest."""
    outcome = drive(small_engine(), [(0.0, Request(1, 16, 50)), (0.011, Request(2, 500, 2))])

    mixed = [step for step in outcome.steps if step.prefill_tokens and step.decoded]
    assert mixed[0].decoded == 1
    assert mixed[0].prefill_tokens == 127


def test_asynchronous_scheduling_sees_an_arrival_one_step_late() -> None:
    """What arrives during a step enters the step after the next; without it, the next."""
    arrivals = [(0.0, Request(1, 16, 50)), (0.012, Request(2, 16, 1))]

    late = drive(small_engine(async_scheduling=True), arrivals).first_s[2]
    early = drive(small_engine(async_scheduling=False), arrivals).first_s[2]

    assert 0.004 < late - early < 0.007


def test_last_admitted_is_preempted_when_blocks_run_out() -> None:
    """The youngest gives way, is computed anew and still gets all its tokens."""
    engine = small_engine(num_blocks=10)

    outcome = drive(engine, [(0.0, Request(1, 64, 90)), (0.0, Request(2, 64, 90))])

    assert outcome.preemptions == {1: 0, 2: 1}
    assert engine.counters.preemptions == 1


def test_request_waits_until_its_whole_prompt_fits() -> None:
    """A prompt is not started in the hope of blocks that are held now."""
    engine = small_engine(num_blocks=20)

    outcome = drive(engine, [(0.0, Request(1, 160, 20)), (0.001, Request(2, 200, 1))])

    assert outcome.first_s[2] > outcome.last_s[1]


def test_max_num_seqs_bounds_the_batch() -> None:
    """No step has more sequences than allowed."""
    arrivals = [(0.0, Request(number, 8, 20)) for number in range(20)]

    outcome = drive(small_engine(), arrivals)

    assert max(step.decoded + len(step.sampled) for step in outcome.steps) == 8


def test_cached_prompt_still_computes_its_last_token() -> None:
    """A prompt that is cached as a whole computes its last block: something must be sampled."""
    segments = _segments(1, 64)
    outcome = drive(
        small_engine(), [(0.0, Request(1, 64, 1, segments)), (1.0, Request(2, 64, 1, segments))]
    )

    assert outcome.cached == {1: 0, 2: 48}
    assert outcome.steps[-1].prefill_tokens == 16


def test_cached_tokens_count_as_prompt_tokens() -> None:
    """vLLM's prompt_tokens_total has every token of a prompt, wherever it came from."""
    engine = small_engine()
    segments = _segments(1, 64)
    drive(engine, [(0.0, Request(1, 64, 1, segments)), (1.0, Request(2, 64, 1, segments))])

    assert engine.counters.prompt_tokens == 128
    assert engine.counters.computed_tokens == 80


def test_full_engine_refuses() -> None:
    """Beyond the limit a request is refused with vLLM's status, and counted."""
    engine = small_engine(max_in_flight=1)
    engine.submit(Request(1, 8, 1), 0.0)

    with pytest.raises(EngineRefused, match="limit is 1") as refusal:
        engine.submit(Request(2, 8, 1), 0.0)

    assert refusal.value.status == 503
    assert engine.counters.refused == 1


def test_request_that_can_never_fit_is_refused_at_once() -> None:
    """It would otherwise wait for ever and hold up everyone behind it."""
    with pytest.raises(PromptTooLong, match="more than the engine holds"):
        small_engine(num_blocks=4).submit(Request(1, 60, 10), 0.0)


def test_load_counts_within_a_run_of_steps() -> None:
    """A poll in the middle of a run sees the tokens and blocks of its moment."""
    engine = small_engine()
    engine.submit(Request(1, 16, 200), 0.0)
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
