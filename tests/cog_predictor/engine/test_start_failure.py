"""A start that failed, in one line."""

from pathlib import Path

import pytest

from cog_predictor.engine.start_failure import explained, keep_error_log, root_cause

LOG = """EngineCore failed to start.
Traceback (most recent call last):
  File "core.py", line 1, in run_engine_core
    raise ValueError("To serve at least one request")
ValueError: To serve at least one request with the model's max seq len (8192), 4 GiB are needed

The above exception was the direct cause of the following exception:

RuntimeError: Engine core initialization failed. See root cause above.
"""


def test_the_first_exception_of_the_log_is_the_cause() -> None:
    """What comes after it only says that something went wrong."""
    assert str(root_cause(LOG)).startswith("ValueError: To serve at least one request")


def test_the_cause_stands_in_place_of_vllms_echo() -> None:
    """One line with the cause and the knob, and none that says "see above"."""
    echo = RuntimeError("Engine core initialization failed. See root cause above. Failed: {}")

    line = explained(echo, LOG)

    assert "See root cause" not in line
    assert "max seq len (8192)" in line
    assert "engine_args.max_model_len" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("message", "knob"),
    [
        ("Please pass the argument `trust_remote_code=True`", "engine_args.trust_remote_code"),
        ("CUDA out of memory. Tried to allocate 2 GiB", "gpu_memory_utilization"),
        ("HeaderTooLarge: Error while deserializing header", "COG_WEIGHTS"),
        ("Model architectures ['Foo'] are not supported for now", "COG_WEIGHTS"),
        ("Unknown quantization method: foo", "engine_args.quantization"),
        ("something new", "engine_args in predictor_config.json"),
    ],
)
def test_every_cause_has_its_knob(message: str, knob: str) -> None:
    """The remedy names what a deployment can change."""
    assert knob in explained(ValueError(message))


def test_logging_of_the_deployment_is_left_alone(tmp_path: Path) -> None:
    """Whoever configured vLLM's logging keeps it."""
    environ = {"VLLM_LOGGING_CONFIG_PATH": "/mine.json"}

    assert keep_error_log(environ, tmp_path) is None
    assert environ == {"VLLM_LOGGING_CONFIG_PATH": "/mine.json"}
