"""The schema of the runner files, which is what callers see of them."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cog import BaseRunner, Input
from cog.predictor import load_predictor_from_ref

from cog_predictor.schema import schema_of

FLAT_FOLDER = Path(__file__).parents[2] / "src/python/cog_predictor/flat"


def _schema(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    # The server itself loads the file so, and leaves it in sys.modules; this takes it out again.
    module = name.partition(".py")[0]
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    return schema_of(load_predictor_from_ref(str(FLAT_FOLDER / name)))


def _inputs(schema: dict[str, Any], title: str = "Input") -> dict[str, dict[str, Any]]:
    return dict(schema["components"]["schemas"][title]["properties"])


def test_the_inputs_are_those_of_cog_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, order and defaults are what callers already send; seed alone may be left away."""
    inputs = _inputs(_schema("run.py:Runner", monkeypatch))

    assert {name: field.get("default") for name, field in inputs.items()} == {
        "prompt": "",
        "system_prompt": "You are a helpful assistant.",
        "min_tokens": 0,
        "max_tokens": 512,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 50,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_sequences": "",
        "prompt_template": "",
        "seed": None,
        "json_schema": "",
    }
    assert [field["x-order"] for field in inputs.values()] == list(range(13))
    assert inputs["seed"]["nullable"]


def test_the_bounds_are_those_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM would refuse is refused before it (vllm/sampling_params.py, _verify_args)."""
    inputs = _inputs(_schema("run.py:Runner", monkeypatch))

    bounds = {name: (field.get("minimum"), field.get("maximum")) for name, field in inputs.items()}
    assert {name: pair for name, pair in bounds.items() if pair != (None, None)} == {
        "min_tokens": (0, None),
        "max_tokens": (1, None),
        "temperature": (0.0, 2.0),
        "top_p": (0.001, 1.0),
        "top_k": (-1, None),
        "presence_penalty": (-2.0, 2.0),
        "frequency_penalty": (-2.0, 2.0),
        "seed": (0, None),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_both_faces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old name and the new one take the same inputs and give the same output."""
    new = _schema("run.py:Runner", monkeypatch)

    assert _schema("predict.py:Predictor", monkeypatch) == new


def test_training_takes_what_cog_vllm_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and defaults, and a token that is a secret."""
    schema = _schema("train.py:train", monkeypatch)
    inputs = _inputs(schema, "TrainingInput")

    assert list(inputs) == [
        "hf_model_id",
        "hf_model_sha",
        "hf_token",
        "allow_patterns",
        "ignore_patterns",
        "prompt_template",
    ]
    assert inputs["ignore_patterns"]["default"] == "*.gguf"
    assert inputs["hf_token"]["x-cog-secret"]
    assert schema["components"]["schemas"]["TrainingInput"]["required"] == ["hf_model_id"]


def test_a_type_that_nobody_described_is_refused() -> None:
    """A schema that says nothing about an input would let anything in."""

    class Odd(BaseRunner):
        def run(self, numbers: list[int] = Input()) -> str:  # noqa: B008
            return str(numbers)

    with pytest.raises(TypeError, match="numbers"):
        schema_of(Odd())


def test_what_is_no_runner_is_refused() -> None:
    """A wrong name is told as such."""
    with pytest.raises(TypeError, match="neither"):
        schema_of(3)
