"""Whether a folder holds a whole model."""

import json
import struct
from pathlib import Path

import pytest

from servekit.errors.tree import WeightsRefused
from servekit.weights.model_folder import find_model, is_model, require_model
from tests.support.model_archive import safetensors, write_model


def test_a_whole_model_is_accepted(tmp_path: Path) -> None:
    """Configuration and weights, all of them whole."""
    model = write_model(tmp_path / "model")

    require_model(model)

    assert is_model(model)


def test_a_model_in_the_only_folder_is_found(tmp_path: Path) -> None:
    """`tar cf model.tar Qwen3` puts the model one folder down."""
    inner = write_model(tmp_path / "top" / "Qwen3")

    assert find_model(tmp_path / "top") == inner
    assert find_model(inner) == inner


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_part_that_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    """Half a model is no model."""
    model = write_model(tmp_path / "model")
    (model / missing).unlink()

    with pytest.raises(WeightsRefused, match=r"config\.json|no weights"):
        require_model(model)

    assert not is_model(model)


@pytest.mark.parametrize("size", [0, 4, 20, -1])
def test_a_weight_file_that_was_cut_is_named(tmp_path: Path, size: int) -> None:
    """The header of a safetensors file says how long it must be."""
    model = write_model(tmp_path / "model")
    content = safetensors()
    (model / "model.safetensors").write_bytes(content[: size if size >= 0 else len(content) + size])

    with pytest.raises(WeightsRefused, match=r"model\.safetensors"):
        require_model(model)


@pytest.mark.parametrize(
    "header", [b"{", b"[]", b'{"w": {"data_offsets": "x"}}', b'{"w": {"data_offsets": [0]}}']
)
def test_a_header_that_is_no_header_is_named(tmp_path: Path, header: bytes) -> None:
    """Damage in the header is told, and breaks nothing else."""
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)

    with pytest.raises(WeightsRefused, match=r"model\.safetensors"):
        require_model(model)


def test_every_shard_of_the_index_must_be_there(tmp_path: Path) -> None:
    """A model in parts is whole when all its parts are."""
    model = write_model(tmp_path / "model")
    shards = {"a": "model.safetensors", "b": "model-2.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))

    with pytest.raises(WeightsRefused, match=r"model-2\.safetensors is missing"):
        require_model(model)

    (model / "model-2.safetensors").write_bytes(safetensors())
    require_model(model)


def test_a_weight_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A link of the hub's cache whose blob is gone: one line with its name, not an errno."""
    folder = write_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.symlink_to("../blobs/gone")

    with pytest.raises(WeightsRefused, match=r"model\.safetensors cannot be read: No such file"):
        require_model(folder)
