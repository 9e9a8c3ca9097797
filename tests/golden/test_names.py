"""Every name of vLLM's that our code uses exists in the captures of the pinned version.

A name that vLLM has dropped does not fail by itself: a metric reads as missing, a variable is
ignored.  tests/real_engine asks the running engine the same.
"""

from servekit.engine.environment import RETIRED
from servekit.metrics import names as metrics
from servekit.wire import routes
from tests.golden.names import (
    CAPTURES,
    METRIC,
    ROOT,
    ROUTE,
    VARIABLE,
    captured_flags,
    captured_metrics,
    captured_routes,
    captured_variables,
    serve_flags,
    strings_in,
    unknown_metrics,
    used,
)

# Settings of ours that look like vLLM's, as the seeds call them.
OUR_VARIABLES = {"VLLM_ENDPOINTS", "VLLM_SERVICE_URL"}

# What an OpenTelemetry collector serves looks like vLLM's too.
COLLECTOR_ROUTES = {"/v1/traces"}


def capture(name: str) -> str:
    return (CAPTURES / name).read_text()


def test_every_metric_in_the_code_is_exposed() -> None:
    """Former names are only read, for engines that are still out there."""
    exposed = captured_metrics(
        capture("metrics_v0.32.0_cpu_generate.txt"), capture("metrics_v0.32.0_cpu_pooling.txt")
    )
    in_code = used(METRIC, strings_in(ROOT / "src/python"))

    assert in_code >= set(metrics.CURRENT)
    assert unknown_metrics(in_code - metrics.FORMER.keys(), exposed) == set()


def test_every_declared_route_is_served() -> None:
    """Those of the generating engine, in development mode too."""
    served = captured_routes(capture("routes_dev_v0.32.0.txt"))

    assert {*routes.GENERATE, *routes.DEVELOPMENT} - served == set()


def test_every_route_in_the_code_is_declared() -> None:
    """A route that is spelled out somewhere is one that servekit.wire.routes knows."""
    declared = {
        *(route.path for route in routes.ROUTES),
        *routes.GENERATE,
        *(routes.PING, routes.INVOCATIONS, routes.LOAD),
    }

    in_code = used(ROUTE, strings_in(ROOT / "src/python"))
    assert in_code - declared - COLLECTOR_ROUTES == set()


def test_every_flag_is_in_the_help() -> None:
    """Whatever EngineArguments can write, `vllm serve` understands."""
    assert serve_flags() - captured_flags(capture("serve_help_v0.32.0.txt")) == set()


def test_every_variable_in_the_code_is_vllms() -> None:
    """Retired ones are only recognized, to say what took their place."""
    known = captured_variables(capture("variables_v0.32.0.txt"))
    in_code = used(VARIABLE, strings_in(ROOT / "src/python"))

    assert in_code - known - RETIRED.keys() - OUR_VARIABLES == set()


def test_retired_variables_are_retired() -> None:
    """What we refuse to pass on is nothing that the engine still reads."""
    assert RETIRED.keys() & captured_variables(capture("variables_v0.32.0.txt")) == set()


def test_a_retired_metric_would_be_found() -> None:
    """Planted: the name that V0 engines had is in no capture."""
    exposed = captured_metrics(capture("metrics_v0.32.0_cpu_generate.txt"))
    planted = {"vllm:gpu_cache_usage_perc", metrics.NUM_REQUESTS_RUNNING}

    assert unknown_metrics(planted, exposed) == {"vllm:gpu_cache_usage_perc"}


def test_retired_flags_would_be_found() -> None:
    """Planted: flags that older examples still give."""
    known = captured_flags(capture("serve_help_v0.32.0.txt"))

    assert {"--swap-space", "--task", "--disable-log-requests"} & known == set()
