"""Damaged files of weights, seen before vLLM hangs over them."""

import json
from pathlib import Path

import pytest

from cog_predictor.engine.weight_files import check_safetensors
from servekit.errors.tree import EngineNotReady

HEADER = json.dumps({"__metadata__": {}, "a": {"data_offsets": [0, 4]}}).encode()
WHOLE = len(HEADER).to_bytes(8, "little") + HEADER + b"\0\0\0\0"


def test_a_whole_file_passes(tmp_path: Path) -> None:
    """And a folder without one."""
    check_safetensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(WHOLE)

    check_safetensors(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 1000, WHOLE[:-1], WHOLE[:20], WHOLE + b"x", (2).to_bytes(8, "little") + b"[]"],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    """With what is wrong and what to do."""
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(EngineNotReady, match=r"model\.safetensors is damaged: .+ COG_WEIGHTS"):
        check_safetensors(tmp_path)
