"""config.json -> shape, held to what was published of each model."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.enginesim.hardware import MODELS
from servekit.enginesim.known_models import KNOWN_MODELS
from servekit.enginesim.model_config import shape_of
from servekit.enginesim.model_files import find_shape
from servekit.errors.tree import SettingInvalid

DENSE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
MIXTRAL = DENSE | {
    "model_type": "mixtral",
    "vocab_size": 32000,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "vocab_size": 129280,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "quantization_config": {"quant_method": "fp8"},
}
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "quantization_config": {"quant_method": "mxfp4"},
}
GEMMA_2 = {
    "model_type": "gemma2",
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "vocab_size": 256000,
    "sliding_window": 4096,
}
SCOUT = {
    "model_type": "llama4",
    "text_config": {
        "model_type": "llama4_text",
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 202048,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
    },
}
OPT = {
    "model_type": "opt",
    "hidden_size": 768,
    "ffn_dim": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 50272,
}
GPT_2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}


@pytest.mark.parametrize(
    ("config", "parameters", "active"),
    [
        # As each model's card says, in billions; Scout's 109 include what sees images.
        (DENSE, 8.03, 8.03),
        (MIXTRAL, 46.7, 12.9),
        (DEEPSEEK_V3, 671.0, 37.5),
        (QWEN3_MOE, 30.5, 3.35),
        (GPT_OSS, 20.9, 4.2),
        (GEMMA_2, 9.24, 9.24),
        (SCOUT, 108.6, 17.2),
        (OPT, 0.125, 0.125),
        (GPT_2, 0.124, 0.124),
    ],
)
def test_parameters_are_those_of_the_model_card(
    config: dict[str, Any], parameters: float, active: float
) -> None:
    """Dense, grouped and latent attention, experts, tied embeddings, a gate or none."""
    shape = shape_of(config, "m")

    assert shape.parameters / 1e9 == pytest.approx(parameters, rel=0.012)
    assert shape.active_parameters / 1e9 == pytest.approx(active, rel=0.015)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", 1.236),
        ("meta-llama/Llama-3.2-3B-Instruct", 3.213),
        ("meta-llama/Llama-3.3-70B-Instruct", 70.55),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7.248),
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.494),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1.544),
        ("Qwen/Qwen2.5-3B-Instruct", 3.086),
        ("Qwen/Qwen2.5-14B-Instruct", 14.77),
        ("Qwen/Qwen2.5-32B-Instruct", 32.76),
        ("Qwen/Qwen2.5-72B-Instruct", 72.71),
        ("casperhansen/mixtral-instruct-awq", 46.7),
    ],
)
def test_known_models_have_their_published_size(model: str, parameters: float) -> None:
    """The hub shows these beside each model's weights."""
    assert KNOWN_MODELS[model].parameters / 1e9 == pytest.approx(parameters, rel=0.002)


def test_measured_models_are_as_their_config_says() -> None:
    """What was written by hand for the fleet of the main job agrees with the rule."""
    llama, mixtral = "meta-llama/Llama-3.1-8B-Instruct", "mistralai/Mixtral-8x7B-Instruct-v0.1"

    assert shape_of(DENSE, llama).is_like(MODELS[llama])
    assert shape_of(MIXTRAL, mixtral).is_like(MODELS[mixtral])
    assert not shape_of(DENSE, llama).is_like(MODELS[mixtral])
    assert not shape_of(DENSE | {"num_hidden_layers": 30}, llama).is_like(MODELS[llama])


@pytest.mark.parametrize(
    ("config", "bytes_per_token"),
    [
        # Keys and values, two bytes each, of 8 heads of 128 in 32 layers.
        (DENSE, 2 * 2 * 8 * 128 * 32),
        # One vector of 512 + 64 for all 128 heads.
        (DEEPSEEK_V3, 2 * (512 + 64) * 61),
        (GPT_OSS, 2 * 2 * 8 * 64 * 24),
        (GPT_2, 2 * 2 * 768 * 12),
    ],
)
def test_kv_cache_per_token(config: dict[str, Any], bytes_per_token: int) -> None:
    assert shape_of(config, "m").kv_bytes_per_token == bytes_per_token


def test_kv_cache_is_divided_over_as_many_gpus_as_it_has_heads() -> None:
    """Grouped heads are copied where there are more GPUs; a latent cache always is."""
    assert [shape_of(DENSE, "m").kv_shards(size) for size in (1, 4, 8, 16)] == [1, 4, 8, 8]
    assert [shape_of(DEEPSEEK_V3, "m").kv_shards(size) for size in (1, 8)] == [1, 1]


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "fp8"}, 8.0),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4.15625),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8.0),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, 4.625),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8.0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 8.0),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
        ({"quant_method": "mxfp4"}, 4.25),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
            },
            4.125,
        ),
    ],
)
def test_quantized_weights(quantization: dict[str, Any], bits: float) -> None:
    """Linear layers are quantized, embeddings are not: the mean lies between."""
    shape = shape_of(DENSE | {"quantization_config": quantization}, "m")
    embeddings = 2 * 128256 * 4096

    linear = (shape.weight_bytes * shape.parameters - 2 * embeddings) / (
        shape.parameters - embeddings
    )
    assert linear * 8 == pytest.approx(bits, rel=0.001)


@pytest.mark.parametrize(
    ("config", "window", "layers"),
    [
        (DENSE, None, 0),
        (GEMMA_2, 4096, 21),
        (GPT_OSS, 128, 12),
        (DENSE | {"model_type": "mistral", "sliding_window": 4096}, 4096, 32),
        (
            DENSE | {"model_type": "qwen2", "sliding_window": 9, "use_sliding_window": False},
            None,
            0,
        ),
        (DENSE | {"model_type": "gemma3_text", "sliding_window": 512}, 512, 27),
        (DENSE | {"sliding_window": 512, "layer_types": ["full_attention"] * 32}, None, 0),
    ],
)
def test_sliding_windows(config: dict[str, Any], window: int | None, layers: int) -> None:
    shape = shape_of(config, "m")

    assert (shape.window, shape.sliding_layers) == (window, layers)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "config.json has no num_hidden_layers"),
        (DENSE | {"hidden_size": "4096"}, "hidden_size is '4096'"),
        (DENSE | {"vocab_size": -1}, "vocab_size is -1"),
        (DENSE | {"num_attention_heads": True}, "num_attention_heads is True"),
        (DENSE | {"num_key_value_heads": 7}, "32 attention heads cannot share 7"),
        (MIXTRAL | {"num_experts_per_tok": 9}, "9 of 8 experts"),
        (DENSE | {"model_type": "mamba"}, "'mamba' is not a transformer decoder"),
        (DENSE | {"quantization_config": {"quant_method": "aqlm"}}, "'aqlm' is not simulated"),
        (DENSE | {"quantization_config": "int8"}, "is not an object"),
        (
            DENSE
            | {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {}}},
            "'compressed-tensors' is not simulated",
        ),
        (
            DENSE | {"quantization_config": {"quant_method": "gptq", "bits": 17}},
            "'gptq' is not simulated",
        ),
        (MIXTRAL | {"first_k_dense_replace": "x"}, "first_k_dense_replace is 'x'"),
        (MIXTRAL | {"mlp_only_layers": 3}, "mlp_only_layers 3"),
    ],
)
def test_what_is_no_shape_is_refused(config: dict[str, Any], message: str) -> None:
    """With the model's name and the field."""
    with pytest.raises(SettingInvalid, match=message) as caught:
        shape_of(config, "org/m")

    assert "'org/m'" in str(caught.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    changes=st.dictionaries(
        st.sampled_from([*DEEPSEEK_V3, *GPT_OSS, *DENSE, "text_config", "moe_layer_freq"]), _JSON
    ),
    base=st.sampled_from([DENSE, MIXTRAL, DEEPSEEK_V3, GPT_OSS, {}]),
)
def test_any_config_is_a_shape_or_refused(changes: dict[str, Any], base: dict[str, Any]) -> None:
    """Whatever stands in a config.json, nothing else is raised."""
    try:
        shape = shape_of(base | changes, "m")
    except SettingInvalid:
        return
    assert shape.parameters > 0
    assert 0 < shape.weight_bytes <= 4


# Where a shape is looked for.


def _write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_shape_is_found_where_the_model_is(tmp_path: Path) -> None:
    """Inline, by the path of a config.json, in the folder of the weights, or in the hub's cache."""
    folder = _write(tmp_path / "weights", DENSE)
    snapshot = "hub/models--org--m/snapshots/abc"
    _write(tmp_path / snapshot, MIXTRAL)
    environ = {"HF_HOME": str(tmp_path)}

    dense, mixtral = shape_of(DENSE, "org/m"), shape_of(MIXTRAL, "org/m")
    assert find_shape("org/m", config=DENSE, environ={}) == dense
    assert find_shape("org/m", config=str(folder), environ={}) == dense
    assert find_shape("org/m", config=str(folder / "config.json"), environ={}) == dense
    assert find_shape("org/m", weights=str(folder), environ=environ) == dense
    assert find_shape("org/m", environ=environ) == mixtral
    assert find_shape("served", weights="org/m", environ=environ).parameters == mixtral.parameters
    cache = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    assert find_shape("org/m", environ=cache) == mixtral
    assert find_shape("org/m", environ={"HOME": "/none"} | cache) == mixtral


def test_known_names_need_no_files() -> None:
    llama = "meta-llama/Llama-3.1-8B-Instruct"

    assert find_shape(llama, environ={}) is KNOWN_MODELS[llama]
    assert find_shape("mine", weights=llama, environ={}) is KNOWN_MODELS[llama]


def test_an_unknown_model_is_refused_with_what_to_give(tmp_path: Path) -> None:
    """It does not become an 8B."""
    with pytest.raises(SettingInvalid, match="unknown to the simulator; give its"):
        find_shape("org/m", environ={"HF_HOME": str(tmp_path)})


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00"])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    """With its path."""
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(SettingInvalid, match=str(tmp_path)):
        find_shape("m", config=str(tmp_path), environ={})
