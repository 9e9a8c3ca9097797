"""What tests/golden finds in captures, asked of the engine that runs."""

import subprocess

import pytest

from servekit.metrics import names as metrics
from servekit.wire import routes
from tests.golden.names import (
    METRIC,
    ROOT,
    captured_flags,
    captured_metrics,
    captured_routes,
    captured_variables,
    serve_flags,
    strings_in,
    unknown_metrics,
    used,
)
from tests.real_engine.engine import Engine
from tests.real_engine.engine_http import get, post
from tests.real_engine.environment import EngineEnvironment

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]


def output_of(environment: EngineEnvironment, *args: str) -> str:
    run = subprocess.run(  # noqa: S603
        (environment.python, *args), capture_output=True, text=True, check=True
    )
    return run.stdout


def test_metrics_in_our_code_are_exposed(engine: Engine) -> None:
    """By the engine that runs, not by a capture of it."""
    body = {"model": engine.model, "prompt": "hello", "max_tokens": 4}
    post(f"{engine.url}{routes.COMPLETIONS}", body)
    exposed = captured_metrics(get(f"{engine.url}{routes.METRICS}"))
    in_code = used(METRIC, strings_in(ROOT / "src/python")) - metrics.FORMER.keys()

    assert unknown_metrics(in_code, exposed) == set()


def test_routes_are_served(engine: Engine) -> None:
    """The engine lists its routes when it starts."""
    assert set(routes.GENERATE) - captured_routes(engine.log.read_text()) == set()


def test_pooling_routes_are_served(pooling_engine: Engine) -> None:
    """An embedding comes back, of unit length and of the model's width."""
    body = {"model": pooling_engine.model, "input": ["hello", "world"]}

    answer = post(f"{pooling_engine.url}{routes.EMBEDDINGS}", body)

    vectors = [item["embedding"] for item in answer["data"]]
    assert [len(vector) for vector in vectors] == [256, 256]
    assert sum(x * x for x in vectors[0]) == pytest.approx(1.0, abs=1e-3)


def test_flags_are_understood(environment: EngineEnvironment) -> None:
    """Whatever we can write on its command line is in its help."""
    text = output_of(environment, "-m", "vllm.entrypoints.cli.main", "serve", "--help=all")

    assert serve_flags() - captured_flags(text) == set()


def test_variables_are_read(environment: EngineEnvironment) -> None:
    """Those in the capture are those of the installed version: the fast test holds for it."""
    code = "import vllm.envs as e; print(*e.environment_variables, sep='\\n')"
    capture = (ROOT / "tests/golden/vllm/variables_v0.32.0.txt").read_text()

    assert captured_variables(output_of(environment, "-c", code)) == captured_variables(capture)
