"""The data type that a model runs in on a GPU.  Pure.

float16 overflows in some families, and bfloat16 needs compute capability 8.0: what is right
depends on both, and a constant is wrong somewhere.
"""

import re
from dataclasses import dataclass
from functools import total_ordering

from servekit.errors.tree import SettingInvalid

# vLLM 0.33, config/model.py, _FLOAT16_NOT_SUPPORTED_MODELS: it refuses float16 for these.
FLOAT16_REFUSED = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})

# The first architecture with bfloat16 arithmetic (Ampere).
BFLOAT16_SINCE = (8, 0)

_ARCH = re.compile(r"(?P<major>\d+)\.(?P<minor>\d)(?P<suffix>a|f)?(\+PTX)?")


@total_ordering
@dataclass(frozen=True, slots=True)
class GpuArch:
    """A CUDA compute capability: 7.5 is a T4, 8.0 an A100, 8.9 an L4, 9.0 an H100 or H200."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    def __lt__(self, other: "GpuArch") -> bool:
        return (self.major, self.minor) < (other.major, other.minor)

    @property
    def has_bfloat16(self) -> bool:
        return (self.major, self.minor) >= BFLOAT16_SINCE


def read_arch_list(text: str) -> tuple[GpuArch, ...]:
    """Return the architectures in a TORCH_CUDA_ARCH_LIST such as `8.0;8.9+PTX`, in its order.

    Raises:
        SettingInvalid: an entry is not MAJOR.MINOR.
    """
    entries = [entry for entry in re.split(r"[;,\s]+", text) if entry]
    return tuple(_read_arch(entry) for entry in entries)


def _read_arch(entry: str) -> GpuArch:
    match = _ARCH.fullmatch(entry)
    if match is None:
        raise SettingInvalid(
            f"TORCH_CUDA_ARCH_LIST has {entry!r}; write compute capabilities such as 8.9"
        )
    return GpuArch(int(match["major"]), int(match["minor"]))


def choose_dtype(family: str | None, arch: GpuArch | None) -> str:
    """Return the `--dtype` for a model of *family* (its `model_type`) on *arch*.

    `auto`, vLLM's own choice, where the family or the GPU is not known.
    """
    if family is None or arch is None or arch.has_bfloat16:
        return "bfloat16" if arch is not None and arch.has_bfloat16 else "auto"
    return "float32" if family in FLOAT16_REFUSED else "float16"
