"""An environment as processes: what is started, where, and with what."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_environments.deployment import EngineKind
from bench_environments.plan import PlannedExperiment, fits_side_by_side, load_plan
from bench_environments.processes import EngineChoices, ProcessFleet, process_fleet
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import load_fleet

CHOICES = EngineChoices(models="/m", load_format="dummy", environ={"A": "1"})


def fleet_of(kind: EngineKind, row: int = 0, first_gpu: int = 0, **choices: bool) -> ProcessFleet:
    return process_fleet(
        "h200_shared",
        load_fleet("h200_shared"),
        kind,
        row=row,
        first_gpu=first_gpu,
        choices=replace(CHOICES, **choices),  # type: ignore[arg-type]
    )


def option(argv: tuple[str, ...], name: str) -> str | None:
    return argv[argv.index(name) + 1] if name in argv else None


def test_two_kinds_of_engine_share_nothing() -> None:
    """Ports, GPUs, and the names of their segments: both are up at the same time."""
    one, other = fleet_of(EngineKind.vllm), fleet_of(EngineKind.kvcached, row=1, first_gpu=1)

    urls = [start.url for fleet in (one, other) for start in (*fleet.engines, *fleet.balancers)]
    assert len(set(urls) | set(other.pages)) == len(urls) + len(other.pages)
    assert (one.gpus, other.gpus) == ((0,), (1,))
    assert {engine.environ["CUDA_VISIBLE_DEVICES"] for engine in other.engines} == {"1"}
    names = [engine.environ["KVCACHED_IPC_NAME"] for engine in other.engines]
    assert len(set(names)) == len(names) == 6


def test_both_load_balancers_stand_before_the_same_engines() -> None:
    """In the fleet file's order, as everywhere."""
    fleet = fleet_of(EngineKind.vllm)

    endpoints = {option(balancer.argv, "--endpoints") for balancer in fleet.balancers}
    assert endpoints == {",".join(engine.url for engine in fleet.engines)}
    assert [balancer.name for balancer in fleet.balancers] == ["baseline", "managed"]


def test_engines_differ_in_their_memory_only() -> None:
    """A fixed KV cache here, the whole card there; weights, context and the rest are the same."""
    static, elastic = fleet_of(EngineKind.vllm), fleet_of(EngineKind.kvcached)

    for one, other in zip(static.engines, elastic.engines, strict=True):
        assert option(one.argv, "--kv-cache-memory-bytes") == "9000000000"
        assert option(other.argv, "--kv-cache-memory-bytes") is None
        assert option(other.argv, "--gpu-memory-utilization") == "0.92"
        for name in ("--max-model-len", "--max-num-seqs", "--load-format", "--served-model-name"):
            assert option(one.argv, name) == option(other.argv, name) is not None
        assert one.argv[1] == other.argv[1]
        assert one.environ["A"] == other.environ["A"] == "1"


@pytest.mark.parametrize(
    ("on", "flag"), [(True, "--enable-prefix-caching"), (False, "--no-enable-prefix-caching")]
)
def test_prefix_caching_is_said_either_way(on: bool, flag: str) -> None:
    """vLLM's default has changed between releases."""
    fleet = fleet_of(EngineKind.kvcached, prefix_caching=on)

    assert all(flag in engine.argv for engine in fleet.engines)


def test_a_kvcached_engine_is_ready_when_it_is_proven() -> None:
    """Its program's page, not vLLM's own /health."""
    fleet = fleet_of(EngineKind.kvcached)

    assert [engine.health for engine in fleet.engines] == [f"{page}/health" for page in fleet.pages]


@given(gpus=st.integers(1, 8), kinds=st.integers(1, 2), here=st.integers(0, 16))
def test_side_by_side_never_gives_a_gpu_twice(gpus: int, kinds: int, here: int) -> None:
    """The last kind's last GPU exists."""
    fits = fits_side_by_side(gpus, kinds, here)

    assert fits == ((kinds - 1) * gpus + gpus - 1 < here)


def test_the_built_in_plan_is_complete() -> None:
    """Both kinds, the same models in the same order for every load, caches emptied."""
    plan = load_plan("h200_shared")

    assert plan.engines == (EngineKind.vllm, EngineKind.kvcached)
    assert plan.without_prefix_caching == ()
    for load in plan.loads:
        assert "--reset-prefix-cache" in load.options
        assert "--model" in load.options
    assert {"burst", "mooncake", "light"} <= {load.name for load in plan.loads}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fleet: h100", "not a plan"),
        ("fleet: x\nengines: [vllm]\nloads: []", "no loads"),
        ("fleet: x\nengines: [vllm, vllm]\nloads: [{name: a, expected_s: 1, options: []}]", "two"),
        ("fleet: x\nengines: [gpu]\nloads: [{name: a, expected_s: 1, options: []}]", "not a plan"),
        (
            "fleet: x\nengines: [vllm]\nloads: [{name: ../a, expected_s: 1, options: []}]",
            "names must be unique",
        ),
        ("fleet: [", "not a plan"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    """Before anything is started."""
    file = tmp_path / "plan.yaml"
    file.write_text(text)

    with pytest.raises(SettingInvalid, match=reason):
        load_plan(str(file))


def test_a_plan_that_is_not_there_is_named() -> None:
    """With those that are."""
    with pytest.raises(SettingInvalid, match="built-in: h200_shared"):
        load_plan("nowhere")


def test_a_load_may_be_for_one_kind_of_engine() -> None:
    """What only one can show is not measured with the other."""
    plan = PlannedExperiment(
        fleet="x",
        engines=(EngineKind.vllm, EngineKind.kvcached),
        loads=load_plan("h200_shared").loads,
    )

    assert plan.for_kind(EngineKind.vllm) == plan.loads
