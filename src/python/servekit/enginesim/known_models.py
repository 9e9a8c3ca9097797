"""The shapes of models that need no config.json, from the one that each was published with.  Pure.

A test holds them to the published number of parameters.
"""

from servekit.enginesim.hardware import MODELS, ModelShape
from servekit.enginesim.model_config import shape_of

_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}


def _dense(
    layers: int,
    hidden: int,
    inner: int,
    heads: int,
    kv: int,
    vocabulary: int,
    *,
    tied: bool = False,
) -> dict[str, object]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


_MIXTRAL = _dense(32, 4096, 14336, 32, 8, 32000)
_MIXTRAL |= {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}

_CONFIGS: dict[str, dict[str, object]] = {
    "meta-llama/Llama-3.2-1B-Instruct": _dense(16, 2048, 8192, 32, 8, 128256, tied=True),
    "meta-llama/Llama-3.2-3B-Instruct": _dense(28, 3072, 8192, 24, 8, 128256, tied=True),
    "meta-llama/Llama-3.3-70B-Instruct": _dense(80, 8192, 28672, 64, 8, 128256),
    "mistralai/Mistral-7B-Instruct-v0.3": _dense(32, 4096, 14336, 32, 8, 32768),
    "Qwen/Qwen2.5-0.5B-Instruct": _dense(24, 896, 4864, 14, 2, 151936, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": _dense(28, 1536, 8960, 12, 2, 151936, tied=True),
    "Qwen/Qwen2.5-3B-Instruct": _dense(36, 2048, 11008, 16, 2, 151936, tied=True),
    "Qwen/Qwen2.5-14B-Instruct": _dense(48, 5120, 13824, 40, 8, 152064),
    "Qwen/Qwen2.5-32B-Instruct": _dense(64, 5120, 27648, 40, 8, 152064),
    "Qwen/Qwen2.5-72B-Instruct": _dense(80, 8192, 29568, 64, 8, 152064),
    "casperhansen/mixtral-instruct-awq": _MIXTRAL | {"quantization_config": _AWQ},
}

KNOWN_MODELS: dict[str, ModelShape] = MODELS | {
    name: shape_of(config, name) for name, config in _CONFIGS.items()
}
