"""Two times two: whose doing it was."""

import random

from bench.loadgen.record import Record
from bench.report.tables import effects_markdown
from bench.stats.factorial import CELLS, Effect, effects
from bench.stats.intervals import Verdict
from bench.stats.windowed_metrics import SloLimits, windows_of
from bench.workload.schedule import Part
from tests.support.records import a_record, at, delayed

PARTS = [Part(number, number * 16.0, 16.0, ()) for number in range(3)]


def a_cell(seed: int, later_s: float) -> list[Record]:
    rng = random.Random(seed)
    return [
        delayed(at(a_record(), part.number, n / 5), later_s + rng.expovariate(200.0))
        for part in PARTS
        for n in range(80)
    ]


def measured(later_s: dict[str, float]) -> dict[str, Effect]:
    cells = [a_cell(seed, later_s[cell]) for seed, cell in enumerate(CELLS)]
    found = effects(cells, windows_of(PARTS), goal=SloLimits(), seed=1)
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
    found = effects(cells, windows_of(PARTS), goal=SloLimits(), seed=1)

    lines = effects_markdown(found, ["ttft_p50", "error_rate"]).splitlines()

    assert lines[0] == "|  | engine | load balancer | interaction | both |"
    assert len(lines) == 4
