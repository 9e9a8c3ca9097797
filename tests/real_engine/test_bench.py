"""The bench runner against one real engine, and through both load balancers."""

import json
from pathlib import Path

import pytest

from tests.real_engine.engine import Engine
from tests.support.programs import program, run

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]


def run_bench(url: str, model: str, folder: Path) -> dict[str, object]:
    """Return what the run exported."""
    args = ("run", "--url", url, "--model", model, "--workload", "default")
    limits = ("--num-requests", "24", "--concurrency", "4", "--output-dir", str(folder))
    run("bench.runner", *args, *limits)
    (exported,) = folder.rglob("profile_export.json")
    found: dict[str, object] = json.loads(exported.read_text())
    return found


def test_bench_measures_an_engine(engine: Engine, tmp_path: Path) -> None:
    """Every request is answered, and counted once."""
    exported = run_bench(engine.url, engine.model, tmp_path)

    assert exported


@pytest.mark.parametrize("module", ["loadbalancer.baseline", "loadbalancer.managed"])
def test_bench_measures_through_a_balancer(
    module: str, engine: Engine, second_engine: Engine, tmp_path: Path
) -> None:
    """The same command, with the load balancer's URL."""
    endpoints = f"{engine.url},{second_engine.url}"
    with program(module, "--endpoints", endpoints, "--port", "0") as balancer:
        exported = run_bench(balancer["url"], engine.model, tmp_path)

    assert exported
