"""Two times two: whose doing it was."""

import random
from datetime import UTC, datetime

import msgspec
import pytest

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record
from bench.loadgen.run_result import RunResult
from bench.report.tables import effects_markdown
from bench.stats.comparison import contrasts
from bench.stats.factorial import (
    CELLS,
    EFFECTS,
    Effect,
    GridRun,
    effect_of,
    grid_run,
    judged_together,
)
from bench.stats.intervals import Verdict
from bench.stats.windowed_metrics import SloLimits, turns_of
from bench.workload.schedule import Call, Part, PartLayout, Schedule
from tests.support.records import a_record, at, delayed

PARTS = [Part(number, number * 6.0 - 6.0, 6.0, ()) for number in range(1, 13)]
TURNS = turns_of(PARTS)


def a_cell(seed: int, later_s: float) -> list[Record]:
    rng = random.Random(seed)
    return [
        delayed(at(a_record(), part.number, n / 2), later_s + rng.expovariate(200.0))
        for part in PARTS
        for n in range(12)
    ]


def effects(cells: list[list[Record]]) -> list[Effect]:
    return [effect_of(one) for one in contrasts(cells, TURNS, EFFECTS, SloLimits(), 1)]


def measured(later_s: dict[str, float]) -> dict[str, Effect]:
    cells = [a_cell(seed, later_s[cell]) for seed, cell in enumerate(CELLS)]
    found = effects(cells)
    return {one.effect: one for one in found if one.metric == "ttft_mean"}


def test_an_effect_of_the_load_balancer_is_not_the_engines() -> None:
    """20 ms saved by the load balancer, with either engine, is its effect and nobody else's."""
    found = measured({"00": 0.03, "01": 0.01, "10": 0.03, "11": 0.01})

    assert found["load balancer"].verdict is Verdict.BETTER
    assert found["load balancer"].estimate is not None
    assert -21.5 < found["load balancer"].estimate < -18.5
    assert found["engine"].verdict is Verdict.NOT_SHOWN
    assert found["interaction"].verdict is Verdict.NOT_SHOWN
    assert found["both"].verdict is Verdict.BETTER


def test_what_only_both_bring_is_an_interaction() -> None:
    """20 ms that need the new engine behind the new load balancer show as an interaction."""
    found = measured({"00": 0.03, "01": 0.03, "10": 0.03, "11": 0.01})

    interaction = found["interaction"].estimate
    assert interaction is not None
    assert -23.0 < interaction < -17.0
    assert found["interaction"].verdict is Verdict.BETTER


def test_the_table_has_a_column_per_effect() -> None:
    """Fit for a report."""
    cells = [a_cell(seed, 0.0) for seed in range(4)]
    found = effects(cells)

    lines = effects_markdown(found, ["ttft_p50", "error_rate"]).splitlines()

    assert lines[0] == "|  | engine | load balancer | interaction | both |"
    assert len(lines) == 4


def steady_cell(later_ms: float, **changes: object) -> list[Record]:
    """Return requests that are all alike: TTFT 50 ms and *later_ms*."""
    return [
        delayed(at(a_record(**changes), part.number, n / 2), later_ms / 1e3)
        for part in PARTS
        for n in range(12)
    ]


@pytest.mark.parametrize(
    ("effect", "value"),
    [
        # Of 51, 52, 57 and 70 ms in cells 00, 01, 10 and 11:
        ("engine", (57 + 70 - 51 - 52) / 2),
        ("load balancer", (52 + 70 - 51 - 57) / 2),
        # The engine's effect with the new load balancer, less that with the old: 18 - 6.
        ("interaction", 12.0),
        ("both", 70.0 - 51.0),
    ],
)
def test_effects_of_what_does_not_vary_are_exact(effect: str, value: float) -> None:
    """Worked out by hand from the four cells; intervals have no width."""
    cells = [steady_cell(later_ms) for later_ms in (1, 2, 7, 20)]

    found = effects(cells)
    one = next(e for e in found if (e.metric, e.effect) == ("ttft_p50", effect))

    assert (one.estimate, one.low, one.high) == pytest.approx((value, value, value))
    assert (one.label, one.unit, one.verdict) == ("TTFT p50", "ms", Verdict.WORSE)


def test_more_goodput_is_better_and_more_latency_worse() -> None:
    """Each effect is judged in its metric's own direction."""
    failing = steady_cell(0, error="reset")
    cells = [failing, steady_cell(0), failing, steady_cell(0)]

    found = effects(cells)
    verdicts = {e.metric: e.verdict for e in found if e.effect == "load balancer"}

    assert verdicts["slo_share"] is Verdict.BETTER
    assert verdicts["error_rate"] is Verdict.BETTER


def test_an_effect_on_what_a_cell_lacks_is_unknown() -> None:
    """No answer in one cell: no estimate, no interval, no verdict; the rest is told."""
    cells = [steady_cell(0), steady_cell(0), steady_cell(0), steady_cell(0, error="reset")]

    found = effects(cells)
    ttft = next(e for e in found if (e.metric, e.effect) == ("ttft_p50", "both"))
    errors = next(e for e in found if (e.metric, e.effect) == ("error_rate", "both"))

    assert (ttft.estimate, ttft.low, ttft.high) == (None, None, None)
    assert ttft.verdict is Verdict.NOT_SHOWN
    assert errors.estimate == 100.0


SCHEDULE = Schedule(
    "test",
    1,
    tuple(
        Call(at_s=p.start_s + n / 2, model="m", prompt_tokens=100, output_tokens=3)
        for p in PARTS
        for n in range(12)
    ),
)


def a_grid(cells: list[list[Record]], *, cpu_s: float = 1.0) -> GridRun:
    run = RunResult(
        arms=CELLS,
        records=[
            msgspec.structs.replace(one, arm=cell)
            for cell, own in zip(CELLS, cells, strict=True)
            for one in own
        ],
        burden=ClientLoad(wall_s=10.0, cpu_s=cpu_s, cores=1, lag_p50_ms=0.1, lag_p99_ms=1.0),
        started=datetime(2026, 1, 1, tzinfo=UTC),
        partial=False,
        schedule=SCHEDULE,
        layout=PartLayout(parts=12, part_s=6.0, warmup_s=0.0),
        manifest={},
    )
    return grid_run(run, ["a", "b", "c", "d"], SloLimits())


def test_one_sentence_says_what_each_factor_does() -> None:
    """All headline metrics and effects taken together."""
    found = a_grid([a_cell(seed, (0.03, 0.01)[seed % 2]) for seed in range(4)])

    engine, balancer, interaction = found.sentence.split("; ")
    assert engine == "engine: not shown"
    assert balancer.startswith("load balancer: better in TTFT p50")
    assert interaction == "interaction: not shown"
    assert all(e.headline and e.effect != "both" for e in found.effects if e.shown)


def test_cells_that_differ_in_nothing_show_nothing() -> None:
    """And the sentence says of how many effects."""
    found = a_grid([a_cell(seed, 0.01) for seed in range(4)])

    assert found.sentence.startswith("engine: not shown; load balancer: not shown; ")
    assert "effects on headline metrics)" in found.sentence
    assert not any(e.shown for e in found.effects)


def test_a_grid_of_few_turns_says_how_many_are_missing() -> None:
    """A cell that lacks the last six parts leaves six turns."""
    cells = [a_cell(seed, 0.03 * seed) for seed in range(4)]
    cells[3] = [r for r in cells[3] if r.part <= 6]

    found = a_grid(cells)

    assert found.turns == 6
    assert "6 turns per arm cannot carry a verdict on" in found.sentence
    assert "missing: " in found.sentence


def test_cells_that_did_different_work_have_no_effect_on_latency() -> None:
    """One cell's answers are half as long: no verdict on latency, by name; errors are judged."""
    cells = [a_cell(seed, 0.03 * (seed % 2)) for seed in range(4)]
    cells[3] = [msgspec.structs.replace(r, completion_tokens=1) for r in cells[3]]

    found = a_grid(cells)

    assert found.sentence.startswith(
        "no verdict on latency, tokens and goodput, since output tokens per request differ: 3 of "
        "00 (a), 1 of 11 (d); "
    )
    assert {e.verdict for e in found.effects if e.metric.startswith("ttft")} == {Verdict.NOT_SHOWN}


def test_holm_takes_all_effects_together() -> None:
    """One p of 0.002 among 24 effects is shown, one of 0.003 is not."""
    cells = [a_cell(seed, 0.01) for seed in range(4)]
    effect = effects(cells)[0]
    names = ["engine", "load balancer", "interaction"]
    for p, shown in ((0.002, 1), (0.003, 0)):
        ps = [p, *[0.9] * 23]
        family = [
            msgspec.structs.replace(effect, effect=names[n % 3], p=p, headline=True)
            for n, p in enumerate(ps)
        ]
        aside = msgspec.structs.replace(effect, effect="both", p=0.0, headline=True)

        assert sum(e.shown for e in judged_together([aside, *family])) == shown


def test_a_grid_run_judges_its_cells_in_order() -> None:
    """Cells by name, whatever the order of the records; validity over all of them."""
    records = [
        msgspec.structs.replace(one, arm=cell)
        for cell, later_ms in zip(reversed(CELLS), (20, 7, 2, 1), strict=True)
        for one in steady_cell(later_ms)
    ]
    run = RunResult(
        arms=CELLS,
        records=records,
        burden=ClientLoad(wall_s=10.0, cpu_s=9.9, cores=1, lag_p50_ms=0.1, lag_p99_ms=1.0),
        started=datetime(2026, 1, 1, tzinfo=UTC),
        partial=False,
        schedule=SCHEDULE,
        layout=PartLayout(parts=12, part_s=6.0, warmup_s=0.0),
        manifest={},
    )

    grid = grid_run(run, ["a", "b", "c", "d"], SloLimits())

    ttft = {e.effect: e.estimate for e in grid.effects if e.metric == "ttft_p50"}
    assert grid.turns == 12
    assert ttft == pytest.approx(
        {"engine": 12.0, "load balancer": 7.0, "interaction": 12.0, "both": 19.0}
    )
    assert list(ttft) == list(EFFECTS)
    assert not grid.validity.valid
    assert (grid.run, grid.targets, grid.goal) == (run, ["a", "b", "c", "d"], SloLimits())
