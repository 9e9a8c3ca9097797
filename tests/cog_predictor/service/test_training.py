"""Packing a repository of the hub into weights."""

import asyncio
import hashlib
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cog_predictor.service.predictor_config import PredictorConfig
from cog_predictor.service.training import HubFiles, Pack, pack_model, patterns
from servekit.errors.tree import SettingInvalid, WeightsMissing
from tests.cog_predictor.cog_server import cog_server, flat_folder
from tests.support.hub_server import FILES, SHA, Hub, hub_server
from tests.support.model_archive import model_files


@pytest.fixture(name="hub")
async def _hub() -> AsyncIterator[Hub]:
    async with hub_server() as hub:
        yield hub


async def _pack(hub: Hub, folder: Path, **changes: Any) -> Path:
    pack = Pack(
        **{
            "repo_id": "org/name",
            "revision": None,
            "allow_patterns": (),
            "ignore_patterns": (),
            "config": PredictorConfig(prompt_template="COMPLETION", engine_args={}),
            **changes,
        }
    )
    folder.mkdir()  # noqa: ASYNC240
    return await asyncio.to_thread(
        pack_model,
        pack,
        HubFiles("hf_x", hub.url),
        folder=folder / "files",
        target=folder / "model.tar",
        report=lambda event, **fields: None,  # noqa: ARG005
    )


def _names(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


async def test_a_repository_is_packed_with_its_configuration(hub: Hub, tmp_path: Path) -> None:
    """Every file of the commit, and a predictor_config.json of our own."""
    archive = await _pack(hub, tmp_path / "a")

    with tarfile.open(archive) as tar:
        contents = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    config = json.loads(contents.pop("predictor_config.json"))
    assert contents == FILES
    assert config == {"prompt_template": "COMPLETION", "engine_args": {}}
    assert hub.tokens == {"Bearer hf_x"}


async def test_packing_twice_gives_the_same_bytes(hub: Hub, tmp_path: Path) -> None:
    """The archive depends on the files: not on the day, the user or the machine."""
    digests = set()
    for name in ("a", "b"):
        archive = await _pack(hub, tmp_path / name)
        digests.add(hashlib.sha256(archive.read_bytes()).hexdigest())

    assert len(digests) == 1


@pytest.mark.parametrize(
    ("allow", "ignore", "expected"),
    [
        ("*.safetensors", "", ["model.safetensors"]),
        ("", "*.gguf,original/*", ["config.json", "model.safetensors"]),
        ("*.json , *.gguf", "original/*", ["config.json", "model.gguf"]),
    ],
)
async def test_patterns_choose_the_files(
    hub: Hub, tmp_path: Path, allow: str, ignore: str, expected: list[str]
) -> None:
    """What no pattern allows, or one ignores, is never fetched."""
    archive = await _pack(
        hub, tmp_path / "a", allow_patterns=patterns(allow), ignore_patterns=patterns(ignore)
    )

    assert _names(archive)[1:] == expected
    fetched = {path.rpartition("/")[2] for path in hub.requests if path.startswith("GET /org")}
    assert fetched == {Path(name).name for name in expected}


async def test_patterns_that_leave_nothing_are_told(hub: Hub, tmp_path: Path) -> None:
    """An archive without a model is nobody's wish."""
    with pytest.raises(SettingInvalid, match="loosen"):
        await _pack(hub, tmp_path / "a", allow_patterns=("*.bin",))


async def test_a_name_that_is_none_is_told(hub: Hub, tmp_path: Path) -> None:
    """No request is made for it."""
    with pytest.raises(SettingInvalid, match="org/name"):
        await _pack(hub, tmp_path / "a", repo_id="../etc")

    assert hub.requests == []


async def test_a_repository_that_the_hub_hides_is_told(hub: Hub, tmp_path: Path) -> None:
    """Gated, private or absent: the message says what to give."""
    hub.refuse = (403, "GatedRepo")

    with pytest.raises(WeightsMissing, match="give a token"):
        await _pack(hub, tmp_path / "a")


async def test_what_a_training_packs_a_predictor_serves(hub: Hub, tmp_path: Path) -> None:
    """Through Cog's own server, both ways: POST /trainings, then COG_WEIGHTS=model.tar."""
    folder = flat_folder(tmp_path / "cog")
    inputs = {"hf_model_id": "org/name", "hf_token": "hf_secret", "ignore_patterns": "*.gguf"}
    async with cog_server(
        folder,
        weights=None,
        runner="train.py:train",
        environ={"HF_ENDPOINT": hub.url},
        train=True,
        concurrency=1,
    ) as server:
        await server.settled()
        status, body = await server.predict(inputs, path="/trainings")
        log = (folder / "server.log").read_text()

    assert (status, body["status"]) == (200, "succeeded"), body
    assert f"/org/name/resolve/{SHA}/config.json" in " ".join(hub.requests)
    assert "hf_secret" not in json.dumps(body) + log
    assert hub.tokens == {"Bearer hf_secret"}

    async with cog_server(folder, weights="model.tar") as server:
        health = await server.settled()
        _, answer = await server.predict({"prompt": "hi", "max_tokens": 1})

    assert health["status"] == "READY", health
    assert answer["output"] == ["hi "]
    (copy,) = (folder / "checkpoints").glob("model-*")
    assert (copy / "config.json").read_bytes() == model_files()["config.json"]
