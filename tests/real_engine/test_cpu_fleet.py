"""The fleet `cpu`: two real engines, both load balancers, and the runner that compares them."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from bench_environments.deployment import BASELINE
from bench_environments.engines import arguments_of
from bench_environments.generated import deployment_of
from servekit.fleet.fleet import Fleet, load_fleet
from tests.real_engine.engine import COMMON_ARGS, Engine
from tests.real_engine.engine_http import load_of, wait_for
from tests.support.programs import program, run

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]


@pytest.fixture
def fleet(engine: Engine, second_engine: Engine, tmp_path: Path) -> Path:
    """The fleet, where its engines listen here."""
    found = load_fleet("cpu")
    ports = [urlsplit(each.url).port or 0 for each in (engine, second_engine)]
    replicas = tuple(
        msgspec.structs.replace(replica, port=port)
        for replica, port in zip(found.replicas, ports, strict=True)
    )
    path = tmp_path / "fleet.yaml"
    path.write_bytes(msgspec.yaml.encode(Fleet(models=found.models, replicas=replicas)))
    return path


@pytest.fixture
def urls(fleet: Path) -> Iterator[list[str]]:
    """Both load balancers in front of it."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(program(module, "--fleet", str(fleet), "--port", "0"))["url"]
            for module in ("loadbalancer.baseline", "loadbalancer.managed")
        ]


def test_containers_would_run_what_is_tried_here() -> None:
    """The fleet asks its engines for what the engines of this suite are started with."""
    deployment = deployment_of(BASELINE, "cpu")
    for pod in deployment.pods:
        asked = arguments_of(deployment, pod).argv()
        assert pod.model.name == "tiny"
        assert set(COMMON_ARGS) <= set(asked)


def test_the_runner_compares_both_on_real_engines(
    urls: list[str], engine: Engine, second_engine: Engine, tmp_path: Path
) -> None:
    """Arms take turns, no request fails, both engines work, and there is a verdict."""
    engines = (engine, second_engine)
    before = [load_of(each.url).prompt_tokens or 0 for each in engines]
    # Two requests per second is what two engines on two busy cores keep up with.
    load = ("--workload", "default", "--arrivals", "constant", "--rate", "2")
    parts = (
        "--parts",
        "2",
        "--part-s",
        "5",
        "--steady-s",
        "0",
        "--warmup-s",
        "1",
        "--output-dir",
        str(tmp_path),
    )

    run("bench.runner", "compare", *urls, *load, *parts)

    found = json.loads(next(tmp_path.rglob("comparison.json")).read_text())
    failed = found["metrics"]["error_rate"]
    assert found["interleaved"]
    assert failed["baseline"] == failed["candidate"] == 0
    assert found["verdict"]
    wait_for(
        lambda: all(
            (load_of(each.url).prompt_tokens or 0) > tokens
            for each, tokens in zip(engines, before, strict=True)
        )
    )
