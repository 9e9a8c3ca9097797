"""Whether the files of weights are whole.  Reads the head of each.

vLLM's core neither starts nor ends over a safetensors file that is cut: it is looked at before.
https://huggingface.co/docs/safetensors: 8 bytes of length, a header in JSON, the tensors.
"""

import json
from pathlib import Path

from servekit.errors.tree import EngineNotReady

# The format's own bound.
_MAX_HEADER_BYTES = 100_000_000


def check_safetensors(folder: Path) -> None:
    """Raise EngineNotReady unless each file is as long as its header says."""
    for path in sorted(folder.glob("*.safetensors")):
        fault = _fault(path)
        if fault:
            raise EngineNotReady(
                f"{path.name} is damaged: {fault}; pack the weights again, and name them in "
                "COG_WEIGHTS"
            )


def _fault(path: Path) -> str | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER_BYTES, size - 8):
            return f"its header would have {length} bytes, and the file has {size}"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "its header is not what safetensors writes"
    expected = 8 + length + max(ends, default=0)
    return None if size == expected else f"it has {size} bytes instead of {expected}"
