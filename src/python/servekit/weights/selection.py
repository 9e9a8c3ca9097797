"""Which files of a repository are fetched: one format of its weights, as vLLM chooses it.  Pure.

vLLM 0.33, `model_loader/default_loader.py`, `_prepare_weights`: Mistral's consolidated files where
there are any, else safetensors (those that the index names), else `.bin`, else `.pt`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from servekit.errors.tree import WeightsRefused

INDEX = "model.safetensors.index.json"
CONSOLIDATED = "consolidated*.safetensors"

# What a training leaves; vLLM's list (`filter_files_not_needed_for_inference`), and its like.
_TRAINING = (
    "training_args.bin", "optimizer.*", "scheduler.*", "scaler.pt", "rng_state*", "global_step*",
    "trainer_state.json", "events.out.tfevents*",
)  # fmt: skip
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")
# Copies in formats that vLLM does not load, and pictures of model cards.
_OTHERS = (
    ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".tflite", ".mlmodel", ".mlpackage", ".npz",
    ".pkl", ".pickle", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".mp4", ".pdf", ".gitattributes",
)  # fmt: skip
_OTHER_FOLDERS = ("original", "onnx", "openvino", "coreml", "runs", "checkpoint-*", "metal", ".git")
# The modules of Sentence Transformers: `2_Dense/model.safetensors`.
_MODULE = re.compile(r"\d+_\w+/[^/]+")


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository.

    Attributes:
        size: in bytes; None where the hub does not say.
        digest: `sha256:`, `md5:` or `git-sha1:` and the hash of its content in hexadecimal; None
            where the store names none.
    """

    path: str
    size: int | None = None
    digest: str | None = None


def select_files(
    files: Sequence[RepoFile], indexed: Iterable[str], *, allow_pickle: bool
) -> list[RepoFile]:
    """Return the files to fetch.  *indexed* are the shards of `model.safetensors.index.json`.

    Raises:
        WeightsRefused: the weights are pickles, which run code as they are loaded, and
            *allow_pickle* is not set; or there are none that vLLM loads.
    """
    kept = [file for file in files if not _is_useless(file.path)]
    weights = _choose([file.path for file in kept], frozenset(indexed), allow_pickle=allow_pickle)
    return [
        file
        for file in kept
        if file.path in weights
        or _is_module(file.path)
        or not (file.path.endswith(_WEIGHTS) or _is_other_index(file.path, weights))
    ]


def _choose(paths: list[str], indexed: frozenset[str], *, allow_pickle: bool) -> frozenset[str]:
    top = [path for path in paths if "/" not in path]
    consolidated = _matching(top, lambda path: fnmatchcase(path, CONSOLIDATED))
    safe = _matching(top, lambda path: path.endswith(".safetensors"))
    if consolidated:
        return consolidated
    if safe or indexed:
        named = frozenset(paths) & indexed
        return named or safe
    pickled = _matching(top, lambda path: path.endswith(".bin"))
    pickled = pickled or _matching(top, lambda path: path.endswith((".pt", ".pth")))
    if not pickled:
        raise WeightsRefused(
            "the repository holds no weights that vLLM loads (*.safetensors, *.bin, *.pt); name "
            "one that does"
        )
    if not allow_pickle:
        raise WeightsRefused(pickle_message(min(pickled)))
    return pickled


def pickle_message(path: str) -> str:
    """Return why pickled weights are refused, and what to do."""
    return (
        f"the weights are pickles ({path}), which can run code as they are loaded; name a "
        "revision with safetensors, or allow them (ALLOW_PICKLE=1)"
    )


def is_training_file(path: str) -> bool:
    """Return whether *path* is what a training leaves beside the weights."""
    name = path.rpartition("/")[2]
    return any(fnmatchcase(name, pattern) for pattern in _TRAINING)


def _matching(paths: list[str], wanted: Callable[[str], bool]) -> frozenset[str]:
    return frozenset(path for path in paths if wanted(path))


def _is_useless(path: str) -> bool:
    folders = path.split("/")[:-1]
    in_other = any(fnmatchcase(one, other) for one in folders for other in _OTHER_FOLDERS)
    return in_other or path.endswith(_OTHERS) or is_training_file(path)


def _is_module(path: str) -> bool:
    return _MODULE.fullmatch(path) is not None and path.endswith((".safetensors", ".json"))


def _is_other_index(path: str, weights: frozenset[str]) -> bool:
    """Return whether *path* is the index of a format that is not fetched."""
    if not path.endswith((".safetensors.index.json", ".bin.index.json")):
        return False
    has_consolidated = any(fnmatchcase(one, CONSOLIDATED) for one in weights)
    is_pickled = any(one.endswith((".bin", ".pt")) for one in weights)
    if path.endswith(".bin.index.json"):
        return not is_pickled
    return path.startswith("consolidated") is not has_consolidated
