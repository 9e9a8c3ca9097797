"""What is known of GPUs and models, from their data sheets and configs.  Pure."""

from dataclasses import dataclass

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
    """What of a model decides the time of a step and the size of the KV cache, in bf16.

    Attributes:
        parameters: all of them.
        expert_parameters: those of all experts; 0 for a dense model.
        experts, experts_per_token: 0 and 0 for a dense model.
        attention_width: query heads times head size.
        kv_width: key-value heads times head size.
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

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in every layer, two bytes each."""
        return 2 * 2 * self.layers * self.kv_width

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
