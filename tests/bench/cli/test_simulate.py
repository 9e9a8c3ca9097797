"""`runner simulate`: the command, its files, and what they say."""

import json
from collections import Counter
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench.cli import plan, simulate
from bench.cli.plan import PlannedFleet, SloLimit, read_slo, smallest
from bench.cli.simulate import trace_schedule
from bench.cli.simulate_scaling import measure, read_sizes
from bench.twin.fleet_run import arrivals_of, read_autoscale, read_failure, setups_of
from bench.twin.load import as_schedule, mixed, scheduled
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
    """Each policy has the exports and the report that a measured run has."""
    _simulate(tmp_path, "--requests", "50", "--policy", "queue", "--rate", "5")

    (exported,) = tmp_path.rglob("queue/profile_export.json")
    shown = json.loads(exported.read_text())
    assert shown["request_count"]["avg"] == 50.0
    assert 1.0 < shown["inter_token_latency"]["p50"] < 100.0
    names = {path.name for path in exported.parent.iterdir()}
    assert {"report.html", "records.msgpack", "profile_export.jsonl", "manifest.json"} <= names


def test_policies_are_compared_with_the_first(tmp_path: Path) -> None:
    """Every other policy has a comparison with intervals, and a report that shows it."""
    _simulate(tmp_path, "--requests", "60", "--policy", "round-robin,queue", "--rate", "2")

    (found,) = tmp_path.rglob("comparison.json")
    said = json.loads(found.read_text())
    assert (said["baseline"], said["candidate"]) == ("round-robin", "queue")
    row = said["metrics"]["ttft_p50"]
    assert row["low"] <= row["difference"] <= row["high"]
    assert "queue" in (found.parent / "report.html").read_text()


def test_report_says_that_nobody_verified_the_engines(tmp_path: Path) -> None:
    """A scaled profile is named as such on the terminal, in the figures and in the manifest."""
    read = _simulate(tmp_path, "--requests", "20", "--policy", "queue", "--rate", "5")

    (manifest,) = tmp_path.rglob("queue/manifest.json")
    for replicas in (read["replicas"], json.loads(manifest.read_text())["simulated"]["replicas"]):
        assert isinstance(replicas, list)
        assert all(not one["verified"] for one in replicas)
        assert all("unverified" in one["calibration"] for one in replicas)


def test_report_can_be_left_out(tmp_path: Path) -> None:
    """Without it the figures of each policy are all that is kept."""
    _simulate(tmp_path, "--requests", "50", "--policy", "queue", "--no-report")

    assert [path.name for path in tmp_path.rglob("*.*")] == ["simulation.json"]


def test_mix_is_made_anew_for_every_policy_and_is_the_same(tmp_path: Path) -> None:
    """The synthetic mix is never kept, repeats to the bit, and goes to every model."""
    asked = ("--trace", "synthetic", "--requests", "300", "--replicas", "4", "--no-report")

    one = _simulate(tmp_path / "one", *asked, "--policy", "queue,queue")["policies"]
    two = _simulate(tmp_path / "two", *asked, "--policy", "queue")["policies"]

    assert isinstance(one, list)
    assert isinstance(two, list)
    assert {policy["digest"] for policy in (*one, *two)} == {two[0]["digest"]}
    assert one[0]["failed"] == 0


def test_mix_shares_beginnings() -> None:
    """Some first blocks come again and again, the last ones are nobody else's."""
    load = mixed(["m"], requests=2_000, rate=100.0, seed=1)

    firsts = Counter(one.segments[0] for one in load.arrivals() if one.segments)
    assert firsts.most_common(1)[0][1] > 20
    lasts = [one.segments[-1] for one in load.arrivals() if len(one.segments) > 3]
    assert len(set(lasts)) == len(lasts)
    assert load.requests == sum(1 for _ in load.arrivals())


def test_mix_can_be_kept_as_a_schedule() -> None:
    """The schedule's calls reach the load balancer as the mix's own requests do."""
    load = mixed(["a", "b"], requests=200, rate=50.0, seed=1)

    again = scheduled(as_schedule(load))

    assert again.prompt_tokens == load.prompt_tokens
    shown = [(a.at_s, a.model, a.prompt_tokens, a.segments) for a in again.arrivals()]
    assert shown == [(a.at_s, a.model, a.prompt_tokens, a.segments) for a in load.arrivals()]


@pytest.mark.parametrize("sizes", ["", "ten", "10,0", "-1"])
def test_fleet_sizes_that_cannot_be_read_are_refused(sizes: str) -> None:
    """The message shows how to write them."""
    with pytest.raises(SettingInvalid, match="10,100,1000"):
        read_sizes(sizes)


def test_cost_does_not_depend_on_the_fleet_but_for_polls() -> None:
    """Twenty times the replicas at the same load per replica take as many events per request."""
    few, many = (measure("p2c", size, requests=400, poll_s=0.2, seed=1) for size in (2, 40))

    assert few.requests == many.requests
    assert many.events / many.requests < 2 * few.events / few.requests


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
    with pytest.raises(SettingInvalid, match="IN_FLIGHT:MAX"):
        read_autoscale("many", 1.0)


def test_slo_is_read() -> None:
    """Latency, quantile, limit and unit."""
    assert read_slo("ttft_p99<500ms, itl_p50<=0.05s") == (
        SloLimit("ttft", 0.99, 0.5),
        SloLimit("itl", 0.5, 0.05),
    )
    with pytest.raises(SettingInvalid, match="form ttft_p99<500ms"):
        read_slo("ttft<500ms")


@pytest.mark.parametrize("needed", range(1, 18))
def test_smallest_fleet_is_found(needed: int) -> None:
    """Whatever is needed is found, with fewer trials than replicas."""
    trials: list[PlannedFleet] = []

    def attempt(policy: str, replicas: int) -> PlannedFleet:
        value = 1000.0 / replicas
        return PlannedFleet("m", policy, replicas, (value,), 0, replicas >= needed)

    found = smallest(attempt, "queue", 64, trials)

    assert found is not None
    assert found.replicas == needed
    assert len(trials) <= 10


def test_search_ends_where_more_replicas_change_nothing() -> None:
    """A promise that one prompt alone breaks is not chased to the largest fleet."""
    trials: list[PlannedFleet] = []

    def attempt(policy: str, replicas: int) -> PlannedFleet:
        return PlannedFleet("m", policy, replicas, (5000.0,), 0, False)

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
