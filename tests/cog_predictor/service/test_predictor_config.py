"""predictor_config.json, and what vLLM is told of it."""

from pathlib import Path

import pytest

from cog_predictor.reporting.error_codes import EngineArgUnknown, PredictorConfigInvalid
from cog_predictor.service.predictor_config import FILE, PredictorConfig, engine_args, load_config
from tests.cog_predictor.fake_engine import known_args


def _write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(text)
    return folder


def test_the_weights_folder_comes_first(tmp_path: Path) -> None:
    """A model that brings its configuration is served with it."""
    weights = _write(tmp_path / "weights", '{"prompt_template": "weights"}')
    here = _write(tmp_path / "here", '{"prompt_template": "here"}')

    assert load_config([weights, here]).prompt_template == "weights"
    assert load_config([tmp_path, here]).prompt_template == "here"
    assert load_config([tmp_path]) == PredictorConfig()


def test_null_is_nothing(tmp_path: Path) -> None:
    """cog-vllm wrote null for what was not set."""
    folder = _write(tmp_path, '{"prompt_template": null, "engine_args": null}')

    assert load_config([folder]) == PredictorConfig()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"engine_args": []}',
        '{"engine_args": "x"}',
        '{"prompt_template": 1}',
        '{"engine_arg": {}}',
        "\xff\xfe",
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path: Path, text: str) -> None:
    """The message names the file."""
    (tmp_path / FILE).write_text(text, encoding="latin-1")

    with pytest.raises(PredictorConfigInvalid, match=r"predictor_config\.json"):
        load_config([tmp_path])


def test_a_context_that_is_given_is_kept() -> None:
    """Else it is vLLM's -1: the model's own, or what fits into memory."""
    args, _ = engine_args({"max_model_len": 512}, known_args(), gpu_count=1)

    assert args["max_model_len"] == 512


@pytest.mark.parametrize(("gpu_count", "expected"), [(0, 1), (1, 1), (4, 4)])
def test_every_gpu_is_used_unless_told_otherwise(gpu_count: int, expected: int) -> None:
    """The default spans the GPUs that are there; a CPU counts as one."""
    args, _ = engine_args({}, known_args(), gpu_count=gpu_count)
    told, _ = engine_args({"tensor_parallel_size": 2}, known_args(), gpu_count=gpu_count)

    assert args == {"dtype": "auto", "tensor_parallel_size": expected, "max_model_len": -1}
    assert told["tensor_parallel_size"] == 2


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("max_model_length", "max_model_len"),
        ("max-model-len", "max_model_len"),
        ("Enforce_Eager", "enforce_eager"),
        ("gpu_memory_utilisation", "gpu_memory_utilization"),
    ],
)
def test_an_unknown_argument_is_told_with_the_nearest(name: str, nearest: str) -> None:
    """Whoever mistyped an argument reads what was meant."""
    with pytest.raises(EngineArgUnknown, match=f"{name!r}.* did you mean {nearest!r}"):
        engine_args({name: 1}, known_args(), gpu_count=1)


def test_an_argument_like_no_other_is_to_be_removed() -> None:
    """No guess is better than a wild one."""
    with pytest.raises(EngineArgUnknown, match="remove it"):
        engine_args({"zzzzqqqq": 1}, known_args(), gpu_count=1)


@pytest.mark.parametrize("name", ["swap_space", "disable_log_requests"])
def test_an_argument_that_vllm_retired_is_dropped_with_a_warning(name: str) -> None:
    """A configuration of last year still starts."""
    args, warnings = engine_args({name: 4}, known_args(), gpu_count=1)

    assert name not in args
    assert name in warnings[0]


def test_the_model_is_what_the_weights_are() -> None:
    """A configuration cannot serve another model than the one that was fetched."""
    args, warnings = engine_args({"model": "other"}, known_args(), gpu_count=1)

    assert "model" not in args
    assert "COG_WEIGHTS" in warnings[0]
