"""`runner simulate`: the command, its files, and what they say."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench import plan, simulate
from bench.plan import Limit, Trial, read_slo, smallest
from bench.simulate import trace_schedule
from bench.twin import arrivals_of, read_autoscale, read_failure, setups_of
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import load_fleet


def _app() -> typer.Typer:
    app = typer.Typer()
    simulate.register(app)
    plan.register(app)

    @app.callback()
    def main() -> None:
        """Without it a lone command would take the app's name."""

    return app


def _simulate(folder: Path, *arguments: str) -> dict[str, object]:
    output = ["--output-dir", str(folder)]
    done = CliRunner().invoke(_app(), ["simulate", *arguments, *output], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (found,) = folder.rglob("simulation.json")
    read: dict[str, object] = json.loads(found.read_text())
    return read


def test_simulation_repeats_to_the_bit(tmp_path: Path) -> None:
    """Two runs of the same command have equal digests for every policy."""
    arguments = ("--requests", "200", "--policy", "queue,prefix", "--fail", "llama-8b-1@20+30")

    def digests(folder: str) -> list[str]:
        policies = _simulate(tmp_path / folder, *arguments)["policies"]
        assert isinstance(policies, list)
        return [policy["digest"] for policy in policies]

    assert digests("one") == digests("two")


def test_simulation_leaves_the_files_of_a_real_run(tmp_path: Path) -> None:
    """Each policy has the exports that a measured run has."""
    _simulate(tmp_path, "--requests", "50", "--policy", "queue", "--rate", "5")

    (exported,) = tmp_path.rglob("queue-profile_export.json")
    assert json.loads(exported.read_text())["request_count"]["avg"] == 50.0


def test_trace_keeps_its_own_pace_unless_told() -> None:
    """Without --rate the requests come when the trace has them."""
    fleet = load_fleet("h100")

    own = trace_schedule("mooncake", fleet, rate=None, requests=None, seed=1)
    fast = trace_schedule("mooncake", fleet, rate=1000.0, requests=None, seed=1)

    assert own.length_s > 50 * fast.length_s
    assert len(own.calls) == len(fast.calls)


def test_only_full_blocks_are_shared() -> None:
    """The last block of a prompt, cut to fit, is nobody else's."""
    schedule = trace_schedule("mooncake", load_fleet("h100"), rate=None, requests=20, seed=1)

    for call, arrival in zip(schedule.calls, arrivals_of(schedule.calls), strict=True):
        assert len(arrival.segments) == call.prompt_tokens // 512


def test_replicas_and_gpus_can_be_chosen() -> None:
    """--replicas counts per model, names differ, and --gpu changes the profile."""
    setups = setups_of(load_fleet("h100"), replicas=3, gpu="h200")

    assert len(setups) == 9
    assert len({setup.name for setup in setups}) == 9
    assert {setup.calibration.gpu for setup in setups} == {"h200"}


@pytest.mark.parametrize("text", ["llama", "llama@5", "llama@a+b", "@1+1"])
def test_failures_that_cannot_be_read_are_refused(text: str) -> None:
    """The message shows how to write one."""
    with pytest.raises(SettingInvalid, match="REPLICA@AT"):
        read_failure(text)


def test_autoscale_that_cannot_be_read_is_refused() -> None:
    """The message shows how to write one."""
    with pytest.raises(SettingInvalid, match="IN_FLIGHT:MOST"):
        read_autoscale("many", 1.0)


def test_slo_is_read() -> None:
    """Latency, quantile, limit and unit."""
    assert read_slo("ttft_p99<500ms, itl_p50<=0.05s") == (
        Limit("ttft", 0.99, 0.5),
        Limit("itl", 0.5, 0.05),
    )
    with pytest.raises(SettingInvalid, match="write ttft_p99<500ms"):
        read_slo("ttft<500ms")


@pytest.mark.parametrize("needed", range(1, 18))
def test_smallest_fleet_is_found(needed: int) -> None:
    """Whatever is needed is found, with fewer trials than replicas."""
    trials: list[Trial] = []

    def attempt(policy: str, replicas: int) -> Trial:
        value = 1000.0 / replicas
        return Trial("m", policy, replicas, (value,), 0, replicas >= needed)

    found = smallest(attempt, "queue", 64, trials)

    assert found is not None
    assert found.replicas == needed
    assert len(trials) <= 10


def test_search_ends_where_more_replicas_change_nothing() -> None:
    """A promise that one prompt alone breaks is not chased to the largest fleet."""
    trials: list[Trial] = []

    def attempt(policy: str, replicas: int) -> Trial:
        return Trial("m", policy, replicas, (5000.0,), 0, False)

    assert smallest(attempt, "queue", 64, trials) is None
    assert len(trials) == 2


def test_plan_prints_a_fleet(tmp_path: Path) -> None:
    """The command names replicas and policy for every model, and keeps the curve."""
    arguments = ["plan", "--slo", "ttft_p90<60s", "--requests", "60", "--policy", "queue"]
    done = CliRunner().invoke(
        _app(), [*arguments, "--output-dir", str(tmp_path)], catch_exceptions=False
    )

    (found,) = tmp_path.rglob("plan.json")
    assert done.exit_code == 0
    assert len(json.loads(found.read_text())["chosen"]) == 3
