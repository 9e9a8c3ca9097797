"""What is known of GPUs and models, from their data sheets and configs.  Pure."""

from dataclasses import dataclass, replace

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GpuType:
    """A GPU type.

    Attributes:
        memory_bytes: as nvidia-smi reports it.
        bandwidth: bytes of memory read per second.
        flops: dense bf16 operations per second.
        link: bytes per second and direction to another GPU of the host.
    """

    name: str
    memory_bytes: float
    bandwidth: float
    flops: float
    link: float


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides the time of a step and the size of the KV cache.

    Attributes:
        parameters: all of them (count).
        expert_parameters: those of all experts; 0 for a dense model.
        experts, experts_per_token: 0 and 0 for a dense model.
        attention_width: query heads times head size.
        kv_width: key-value heads times head size; of a latent cache, half its size.
        kv_heads: as many GPUs as this can share the KV cache, 1 for a latent cache; 0 for any.
        weight_bytes: bytes per parameter, 2.0 in bfloat16; the mean where parts are quantized.
        kv_bytes: bytes per element of the KV cache.
        window: tokens that a sliding layer looks back at most; None without such layers.
        sliding_layers: how many of the layers have that window.
    """

    name: str
    parameters: float
    layers: int
    hidden: int
    attention_width: int
    kv_width: int
    expert_parameters: float = 0.0
    experts: int = 0
    experts_per_token: int = 0
    kv_heads: int = 0
    weight_bytes: float = 2.0
    kv_bytes: float = 2.0
    window: int | None = None
    sliding_layers: int = 0

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of one token in every layer (bytes)."""
        return 2 * self.kv_bytes * self.layers * self.kv_width

    def is_like(self, other: "ModelShape") -> bool:
        """Whether an engine of *other* is as fast: all is equal but for rounded parameters."""
        rounded = replace(self, name=other.name, parameters=other.parameters)
        rounded = replace(rounded, expert_parameters=other.expert_parameters)
        rounded = replace(rounded, kv_heads=other.kv_heads)
        return rounded == other and abs(self.parameters / other.parameters - 1.0) < 0.01

    def kv_shards(self, tensor_parallel_size: int) -> int:
        """Return over how many GPUs the KV cache is divided; the others hold copies."""
        if not self.kv_heads:
            return tensor_parallel_size
        return min(tensor_parallel_size, self.kv_heads)

    @property
    def active_parameters(self) -> float:
        """Parameters that one token is multiplied with."""
        return self.weights_read(1)

    def weights_read(self, tokens: float) -> float:
        """Return the parameters that a step of *tokens* reads: an expert is read if any token
        chose it, and tokens choose independently."""
        if not self.experts:
            return self.parameters
        missed: float = (1.0 - self.experts_per_token / self.experts) ** tokens
        return self.parameters - self.expert_parameters * missed


# NVIDIA's data sheets, SXM versions where there are several; memory as nvidia-smi shows it.
GPUS = {
    gpu.name: gpu
    for gpu in (
        GpuType("h200", 143771 * MIB, 4.8e12, 989e12, 450e9),
        GpuType("h100", 81559 * MIB, 3.35e12, 989e12, 450e9),
        GpuType("a100-80gb", 81920 * MIB, 2.039e12, 312e12, 300e9),
        GpuType("l4", 23034 * MIB, 0.3e12, 121e12, 32e9),
    )
}

# The config.json of each model.
MODELS = {
    shape.name: shape
    for shape in (
        ModelShape("meta-llama/Llama-3.1-8B-Instruct", 8.03e9, 32, 4096, 4096, 1024),
        ModelShape("Qwen/Qwen2.5-7B-Instruct", 7.62e9, 28, 3584, 3584, 512),
        ModelShape(
            "mistralai/Mixtral-8x7B-Instruct-v0.1",
            46.7e9,
            32,
            4096,
            4096,
            1024,
            # Three matrices of 4096 x 14336 in each of 8 experts and 32 layers.
            expert_parameters=45.1e9,
            experts=8,
            experts_per_token=2,
        ),
        ModelShape("meta-llama/Llama-3.1-70B-Instruct", 70.6e9, 80, 8192, 8192, 1024),
    )
}
