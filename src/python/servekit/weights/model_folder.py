"""Whether a folder holds a whole model.  Reads headers, never weights."""

import json
import struct
from pathlib import Path
from typing import Any

from servekit.errors.tree import WeightsRefused
from servekit.weights.selection import is_training_file, pickle_message

# Transformers' name, and Mistral's own.
_CONFIGS = ("config.json", "params.json")
_WEIGHT_ENDS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

# The limit of the safetensors library itself.
_MAX_HEADER_BYTES = 100_000_000


def find_model(folder: Path) -> Path:
    """Return the folder of the model: *folder*, or the only folder in it.

    People pack `tar cf model.tar Qwen3` as often as they pack the files.
    """
    if _has_config(folder):
        return folder
    inner = [path for path in folder.iterdir() if path.is_dir()]
    return inner[0] if len(inner) == 1 and _has_config(inner[0]) else folder


def require_model(folder: Path) -> None:
    """Check that *folder* holds a configuration and every weight file, none of them cut.

    Raises:
        WeightsRefused: something is missing, cut or cannot be read; the message names it.
    """
    try:
        _require_all(folder)
    except OSError as error:
        name = Path(str(error.filename or folder)).name
        raise WeightsRefused(
            f"{name} cannot be read: {error.strerror or error}; let the user that serves read "
            f"{folder}, or fetch the model again"
        ) from error


def _require_all(folder: Path) -> None:
    if not _has_config(folder):
        raise WeightsRefused(f"{folder.name} holds no config.json, so it is no model")
    weights = [path for path in folder.iterdir() if path.name.endswith(_WEIGHT_ENDS)]
    if not weights:
        raise WeightsRefused(f"{folder.name} holds no weights (*{', *'.join(_WEIGHT_ENDS)})")
    for index in _INDEXES:
        _require_shards(folder / index)
    for path in weights:
        if path.suffix == ".safetensors":
            _require_whole(path)


def require_no_pickles(folder: Path) -> None:
    """Check that the weights that vLLM would load from *folder* are no pickles.

    Raises:
        WeightsRefused: they are.
    """
    names = sorted(path.name for path in folder.iterdir())
    if any(name.endswith((".safetensors", ".gguf")) for name in names):
        return
    pickled = [
        name
        for name in names
        if name.endswith((".bin", ".pt", ".pth")) and not is_training_file(name)
    ]
    if pickled:
        raise WeightsRefused(pickle_message(pickled[0]))


def is_model(folder: Path) -> bool:
    """Return whether `require_model` finds nothing amiss."""
    try:
        require_model(folder)
    except WeightsRefused:
        return False
    return True


def _has_config(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _CONFIGS)


def _require_shards(index: Path) -> None:
    if not index.is_file():
        return
    shards = _object(index.read_bytes(), index).get("weight_map")
    if not isinstance(shards, dict):
        raise WeightsRefused(f"{index.name} has no weight_map; fetch the model again")
    for shard in sorted({str(name) for name in shards.values()}):
        if not (index.parent / shard).is_file():
            raise WeightsRefused(f"{shard} is missing, though {index.name} names it")


def _require_whole(path: Path) -> None:
    # https://huggingface.co/docs/safetensors: 8 bytes of header length, the header, the tensors.
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size, _MAX_HEADER_BYTES):
            raise WeightsRefused(f"{path.name} has no safetensors header; fetch the model again")
        header = _object(file.read(length), path)
    expected = 8 + length + max((_end(tensor, path) for tensor in header.values()), default=0)
    if size != expected:
        raise WeightsRefused(
            f"{path.name} has {size} bytes, and its header says {expected}; fetch the model again"
        )


def _end(tensor: object, path: Path) -> int:
    if not isinstance(tensor, dict) or "data_offsets" not in tensor:
        return 0
    match tensor["data_offsets"]:
        case [int(), int() as end]:
            return end
    raise WeightsRefused(f"{path.name} has a tensor without an end; fetch the model again")


def _object(text: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsRefused(f"{path.name} is not JSON; fetch the model again") from error
    if not isinstance(value, dict):
        raise WeightsRefused(f"{path.name} is no JSON object; fetch the model again")
    return value
