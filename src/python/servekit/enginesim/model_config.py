"""A model's config.json -> the shape that decides its speed and its KV cache.  Pure.

Reads what transformers writes: dense and mixture-of-experts decoders, grouped and latent (MLA)
attention, tied embeddings, sliding windows, quantized weights, and the text part of multimodal
models (`text_config`), whose other parts are left out.  What is not a transformer decoder, or is
quantized in a way that is not known here, is refused by name.
"""

from collections.abc import Mapping
from typing import Any

from servekit.enginesim.hardware import ModelShape
from servekit.errors.tree import SettingInvalid

Config = Mapping[str, Any]

# Not decoders of attention layers: state spaces, linear attention, encoders, diffusion.
_OTHER_KINDS = frozenset(
    {
        *("mamba", "mamba2", "falcon_mamba", "jamba", "bamba", "zamba", "zamba2", "rwkv", "plamo2"),
        *("granitemoehybrid", "nemotron_h", "falcon_h1", "minimax", "lfm2", "qwen3_next"),
        *("bert", "roberta", "xlm-roberta", "t5", "bart", "whisper", "clip", "siglip"),
        *("recurrent_gemma", "kimi_linear"),
    }
)

# Feed-forward layers of two matrices; all others have a gate as a third.
_UNGATED = frozenset(
    {
        *("gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "opt", "bloom", "falcon", "phi"),
        *("mpt", "starcoder2", "stablelm_epoch", "codegen", "nemotron", "persimmon"),
    }
)

# transformers leaves a field out of config.json where it has the family's default.
_TIED_BY_DEFAULT = frozenset(
    {
        *("gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_neo", "gpt_bigcode", "opt"),
        *("bloom", "cohere", "cohere2", "falcon", "mpt", "starcoder2"),
    }
)

# Bits per weight, with the scale (and zero) that each group of 128, or 32, has.
_METHOD_BITS = {
    "fp8": 8.0,
    "fbgemm_fp8": 8.0,
    "awq": 4 + 20 / 128,
    "awq_marlin": 4 + 20 / 128,
    "mxfp4": 4 + 8 / 32,
}


def shape_of(raw: Config, name: str) -> ModelShape:
    """Return the shape in *raw*, the content of a config.json; *name* is what errors say.

    Raises:
        SettingInvalid: a field is missing or makes no sense, or the model is of another kind.
    """
    config = _Reader({**raw, **raw.get("text_config", {})} if _nested(raw) else raw, name)
    kind = str(config.raw.get("model_type", ""))
    if kind in _OTHER_KINDS or "ssm_cfg" in raw or "d_inner" in raw:
        raise SettingInvalid(
            f"model {name!r}: model_type {kind!r} is not a transformer decoder and is not simulated"
        )
    layers, hidden = (
        config.count("num_hidden_layers", "n_layer"),
        config.count("hidden_size", "n_embd"),
    )
    heads = config.count("num_attention_heads", "n_head")
    head = config.optional("head_dim") or hidden // heads
    attention, width, kv_width, kv_heads = _attention(config, hidden, heads, head)
    dense, experts, chosen, each, sparse_layers = _feed_forward(config, kind, hidden, layers)
    vocabulary = config.count("vocab_size") * hidden
    tied = bool(config.raw.get("tie_word_embeddings", kind in _TIED_BY_DEFAULT))
    expert_parameters = float(sparse_layers * experts * each)
    linear = layers * attention + dense + expert_parameters
    # Two norms a layer and one in the end.
    others = vocabulary * (1 if tied else 2) + (2 * layers + 1) * hidden
    window, sliding = _window(config, kind, layers)
    return ModelShape(
        name=name,
        parameters=linear + others,
        layers=layers,
        hidden=hidden,
        attention_width=width,
        kv_width=kv_width,
        expert_parameters=expert_parameters,
        experts=experts,
        experts_per_token=chosen,
        kv_heads=kv_heads,
        weight_bytes=(linear * _weight_bits(raw, name) / 8 + 2 * others) / (linear + others),
        window=window,
        sliding_layers=sliding,
    )


class _Reader:
    """The fields of a config, each under one of its names."""

    def __init__(self, raw: Config, name: str) -> None:
        self.raw = raw
        self.name = name

    def count(self, *names: str) -> int:
        """Return a field that must be there, and be at least 1."""
        value = self.optional(*names)
        if value is None:
            raise SettingInvalid(
                f"model {self.name!r}: config.json has no {names[0]}; give the model's own "
                "config.json, with every field"
            )
        return value

    def optional(self, *names: str) -> int | None:
        for name in names:
            value = self.raw.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
                raise SettingInvalid(
                    f"model {self.name!r}: {name} is {value!r} in config.json; it must be a whole "
                    "number above 0"
                )
            return value
        return None


def _nested(raw: Config) -> bool:
    return isinstance(raw.get("text_config"), Mapping)


def _attention(config: _Reader, hidden: int, heads: int, head: int) -> tuple[int, int, int, int]:
    """Return the parameters of a layer's attention, its width, the KV width and the KV heads."""
    latent = config.optional("kv_lora_rank")
    if latent is not None:
        return _latent_attention(config, hidden, heads, latent)
    kv_heads = config.optional("num_key_value_heads") or (
        1 if config.raw.get("multi_query") is True else heads
    )
    if heads % kv_heads:
        raise SettingInvalid(
            f"model {config.name!r}: {heads} attention heads cannot share {kv_heads} key-value "
            "heads; correct config.json"
        )
    # Queries and output, keys and values.
    return 2 * hidden * (heads + kv_heads) * head, heads * head, kv_heads * head, kv_heads


def _latent_attention(
    config: _Reader, hidden: int, heads: int, latent: int
) -> tuple[int, int, int, int]:
    """DeepSeek's: keys and values are made from one vector that all heads share."""
    rope, nope = config.count("qk_rope_head_dim"), config.count("qk_nope_head_dim")
    value = config.count("v_head_dim")
    low_rank = config.optional("q_lora_rank")
    query_width = heads * (nope + rope)
    queries = hidden * query_width if low_rank is None else low_rank * (hidden + query_width)
    keys = hidden * (latent + rope) + latent * heads * (nope + value)
    return queries + keys + heads * value * hidden, query_width, (latent + rope) // 2, 1


def _feed_forward(
    config: _Reader, kind: str, hidden: int, layers: int
) -> tuple[float, int, int, int, int]:
    """Return dense parameters of all layers, experts, experts per token, parameters of an expert
    and the layers that have experts."""
    matrices = 2 if kind in _UNGATED else 3
    inner = config.optional("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    experts = config.optional("num_local_experts", "num_experts", "n_routed_experts") or 0
    dense = matrices * hidden * inner
    if experts <= 1:
        return float(layers * dense), 0, 0, 0, 0
    chosen = config.count("num_experts_per_tok", "num_experts_per_token", "moe_topk")
    if chosen > experts:
        raise SettingInvalid(
            f"model {config.name!r}: {chosen} of {experts} experts per token; correct config.json"
        )
    expert = matrices * hidden * (config.optional("moe_intermediate_size") or inner)
    sparse = _sparse_layers(config, layers)
    shared = (config.optional("n_shared_experts") or 0) * expert
    shared += matrices * hidden * (config.optional("shared_expert_intermediate_size") or 0)
    if kind.startswith("llama4"):
        shared += dense
        dense = matrices * hidden * (config.optional("intermediate_size_mlp") or inner)
    router = hidden * experts
    always = (layers - sparse) * dense + sparse * (shared + router)
    return float(always), experts, chosen, expert, sparse


def _sparse_layers(config: _Reader, layers: int) -> int:
    raw = config.raw
    step = (
        config.optional("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq") or 1
    )
    first = raw.get("first_k_dense_replace") or 0
    named = raw.get("mlp_only_layers") or []
    if not isinstance(first, int) or not isinstance(named, list):
        raise SettingInvalid(
            f"model {config.name!r}: first_k_dense_replace is {first!r} and mlp_only_layers "
            f"{named!r}; they must be a whole number and a list"
        )
    return max(1, (layers - first) // step - len(named))


def _window(config: _Reader, kind: str, layers: int) -> tuple[int | None, int]:
    """Return the sliding window and how many layers have it."""
    raw = config.raw
    window = config.optional("sliding_window")
    if window is None or raw.get("use_sliding_window") is False:
        return None, 0
    types = raw.get("layer_types")
    if isinstance(types, list):
        sliding = sum(one in ("sliding_attention", "chunked_attention") for one in types)
        return (window, min(sliding, layers)) if sliding else (None, 0)
    if kind == "gemma2":
        return window, layers // 2
    pattern = config.optional("sliding_window_pattern", "_sliding_window_pattern")
    if pattern is None and kind.startswith("gemma3"):
        pattern = 6
    return window, layers - layers // pattern if pattern else layers


def _weight_bits(raw: Config, name: str) -> float:
    """Return the bits of a weight in the linear layers."""
    quantization = raw.get("quantization_config")
    if quantization is None:
        return 16.0
    if not isinstance(quantization, Mapping):
        raise SettingInvalid(f"model {name!r}: quantization_config is not an object")
    method = quantization.get("quant_method")
    bits = _bits(str(method), quantization)
    if bits is None or not 1.0 <= bits <= 16.0:
        raise SettingInvalid(
            f"model {name!r}: quantization method {method!r} is not simulated; known are awq, "
            "bitsandbytes, compressed-tensors, fp8, gptq, modelopt and mxfp4"
        )
    return bits


def _bits(method: str, quantization: Config) -> float | None:
    if method in _METHOD_BITS:
        return _METHOD_BITS[method]
    if method in ("gptq", "gptq_marlin", "auto-round"):
        return _grouped(quantization.get("bits", 4), quantization.get("group_size", 128), 20)
    if method == "bitsandbytes":
        return 8.0 if quantization.get("load_in_8bit") else 4.5
    if method == "modelopt":
        return 4.5 if "FP4" in str(quantization.get("quant_algo", "")) else 8.0
    if method == "compressed-tensors":
        return _compressed_bits(quantization)
    return None


def _compressed_bits(quantization: Config) -> float | None:
    groups = quantization.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        return None
    found = []
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            return None
        found.append(_grouped(weights.get("num_bits"), weights.get("group_size"), 16))
    known = [bits for bits in found if bits is not None]
    return sum(known) / len(known) if len(known) == len(found) else None


def _grouped(bits: object, group: object, scale_bits: int) -> float | None:
    """Return the bits of a weight with its part of what each group of weights has."""
    if not isinstance(bits, int):
        return None
    return bits + (scale_bits / group if isinstance(group, int) and group > 0 else 0.0)
