"""The 2x2 of engine and load balancer in virtual time."""

import pytest

from bench.stats.factorial import CELLS
from bench.twin.engine_grid import engine_grid, predicted_records
from bench.workload.registry import WorkloadSpec, make_schedule
from bench.workload.schedule import Part, split
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import Fleet, FleetModel, FleetReplica, load_fleet

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def parts(rate: float, output: int, seed: int = 1) -> tuple[Part, ...]:
    schedule = make_schedule(
        WorkloadSpec(
            workload="synthetic",
            shares={LLAMA: 1.0},
            requests=round(rate * 5),
            rate=rate,
            arrivals="constant",
            seed=seed,
            fit=8192,
        )
    )
    calls = [call for call in schedule.calls if call.output_tokens <= output]
    assert calls
    return split(schedule, [2.0, 2.0])


def test_the_memory_of_a_real_card_is_divided() -> None:
    """Fixed shares hold what the fleet file says; with KVCached each engine may have nearly all,
    and together they have what weights leave."""
    grid = engine_grid(load_fleet("h200_shared"))

    assert grid.static_tokens["llama-8b-1"] == 9_000_000_000 // 131_072
    # vLLM 0.26 with KVCached reported 921,664 tokens.
    assert abs(grid.elastic[0].calibration.kv_cache_tokens - 921_664) < 1_000
    assert 55e9 < grid.shared_bytes < 70e9


def test_a_burst_of_one_model_waits_for_its_share_only() -> None:
    """More than two shares hold: with fixed shares the last first tokens come seconds later."""
    grid = engine_grid(load_fleet("h200_shared"))

    records = predicted_records(grid, parts(rate=250.0, output=2000), seed=1)
    worst = {
        cell: max(r.ttft_s or 0.0 for r in records if r.arm == cell and r.ok) for cell in CELLS
    }

    assert worst["00"] > 2 * worst["10"]
    assert worst["01"] > 2 * worst["11"]


def test_without_want_of_memory_the_engines_are_alike() -> None:
    """The same schedule, the same card, the same times, to the bit."""
    grid = engine_grid(load_fleet("h200_shared"))

    records = predicted_records(grid, parts(rate=4.0, output=2000), seed=1)
    ends = {
        cell: [(r.part, r.part_s, r.content_s) for r in records if r.arm == cell] for cell in CELLS
    }

    assert ends["00"] == ends["10"]
    assert ends["01"] == ends["11"]


def test_parts_do_not_know_one_another() -> None:
    """Each begins with empty engines, as a turn after draining and resetting does."""
    grid = engine_grid(load_fleet("h200_shared"))
    both = parts(rate=6.0, output=2000)

    alone = predicted_records(grid, both[1:], seed=1)
    together = [r for r in predicted_records(grid, both, seed=1) if r.part == 1]

    assert [r.content_s for r in alone] == [r.content_s for r in together]


def test_fleets_of_several_gpus_are_refused() -> None:
    """What is simulated is one card."""
    with pytest.raises(SettingInvalid, match="the fleet uses 2 GPUs"):
        engine_grid(load_fleet("h200_apart"))
    with pytest.raises(SettingInvalid, match="0 GPUs"):
        engine_grid(
            Fleet(
                models=(FleetModel(name=LLAMA, short_name="it"),),
                replicas=(FleetReplica(name="a", model=LLAMA, gpus=(), port=1),),
            )
        )
