"""Which files of a repository are fetched: those that vLLM would load."""

import pytest

from servekit.errors.tree import WeightsRefused
from servekit.weights.selection import INDEX, RepoFile, select_files

TOKENIZER = ("config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja")
SHARDS = tuple(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))


def _chosen(*paths: str, indexed: tuple[str, ...] = (), allow_pickle: bool = False) -> set[str]:
    files = [RepoFile(path, 1) for path in (*TOKENIZER, *paths)]
    chosen = {file.path for file in select_files(files, indexed, allow_pickle=allow_pickle)}
    assert chosen >= set(TOKENIZER)
    return chosen - set(TOKENIZER)


@pytest.mark.parametrize(
    ("paths", "indexed", "chosen"),
    [
        (("model.safetensors", "pytorch_model.bin"), (), {"model.safetensors"}),
        ((*SHARDS, INDEX, "old.safetensors"), SHARDS, {*SHARDS, INDEX}),
        # Mistral-7B-Instruct-v0.3 has both; vLLM takes Mistral's own.
        (
            (*SHARDS, INDEX, "consolidated.safetensors", "params.json", "tekken.json"),
            SHARDS,
            {"consolidated.safetensors", "params.json", "tekken.json"},
        ),
        (
            ("shards/a.safetensors", INDEX),
            ("shards/a.safetensors",),
            {"shards/a.safetensors", INDEX},
        ),
        (("model.safetensors", "onnx/model.onnx", "original/x.pth"), (), {"model.safetensors"}),
        (("model.safetensors", "optimizer.pt", "training_args.bin"), (), {"model.safetensors"}),
        (
            ("model.safetensors", "model-q4.gguf", "tf_model.h5", "a.msgpack"),
            (),
            {"model.safetensors"},
        ),
        (("model.safetensors", "checkpoint-500/model.safetensors"), (), {"model.safetensors"}),
        (
            ("model.safetensors", "1_Pooling/config.json", "2_Dense/model.safetensors"),
            (),
            {"model.safetensors", "1_Pooling/config.json", "2_Dense/model.safetensors"},
        ),
        (
            ("model.safetensors", "modeling_x.py", "logo.png"),
            (),
            {"model.safetensors", "modeling_x.py"},
        ),
    ],
)
def test_one_format_is_chosen(
    paths: tuple[str, ...], indexed: tuple[str, ...], chosen: set[str]
) -> None:
    """As vLLM 0.33 chooses it; training files, copies and pictures stay where they are."""
    assert _chosen(*paths, indexed=indexed) == chosen


@pytest.mark.parametrize("path", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_need_leave(path: str) -> None:
    """They run code as they are loaded; the message names the file and the setting."""
    with pytest.raises(WeightsRefused, match=rf"{path}.*ALLOW_PICKLE"):
        _chosen(path, "optimizer.pt")

    assert _chosen(path, "optimizer.pt", allow_pickle=True) == {path}


@pytest.mark.parametrize("paths", [(), ("model.gguf",), ("optimizer.pt", "training_args.bin")])
def test_a_repository_without_weights_is_refused(paths: tuple[str, ...]) -> None:
    """Rather than fetched, and refused by the engine."""
    with pytest.raises(WeightsRefused, match="no weights"):
        _chosen(*paths, allow_pickle=True)
