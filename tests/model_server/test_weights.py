"""The model on the volume, from a hub that checks the token."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server.weights import room_missing
from servekit.weights.cache import bytes_on_disk
from tests.model_server.node import model_server
from tests.support.container_program import COMMIT, MODEL, write_snapshot
from tests.support.gated_hub import Hub, hub, hub_files
from tests.support.model_archive import write_model

TOKEN = "hf_thisTokenOpensTheModelThatIsGated"  # noqa: S105  (the stand-in's)


@pytest.fixture(name="gated")
def _gated() -> Iterator[Hub]:
    with hub(TOKEN) as running:
        yield running


def _online(gated: Hub, **environ: str) -> dict[str, str]:
    return {"HF_ENDPOINT": gated.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, **environ}


async def _download(folder: Path, **environ: str) -> tuple[int, str]:
    """Its exit code, and what it wrote; the token is in none of it."""
    async with model_server(folder, "download", **environ) as running:
        code = await running.ended()
    said = "\n".join([*running.log, *(json.dumps(event) for event in running.events)])
    assert TOKEN not in said
    return code, said


def _copies(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "models").glob("*/.complete.json"))


async def test_model_is_kept_whole_with_a_marker(tmp_path: Path, gated: Hub) -> None:
    """On the volume, under a name of its own, with nothing half-done beside it."""
    code, _ = await _download(tmp_path, **_online(gated))

    (copy,) = _copies(tmp_path)
    assert code == 0
    assert copy.name.startswith("acme--tiny-1b-")
    assert {path.name for path in copy.iterdir()} == {*hub_files(), ".complete.json"}
    assert list((tmp_path / "models/.partial").iterdir()) == []


async def test_model_is_fetched_at_start_and_never_again(tmp_path: Path, gated: Hub) -> None:
    """The second start has neither a hub nor a token."""
    async with model_server(tmp_path, **_online(gated)) as running:
        await running.url()
        stages = json.loads((tmp_path / "startup.json").read_text())["stages"]

    async with model_server(tmp_path) as again:
        await again.url()

    assert "Model download" in [stage["name"] for stage in stages]


async def test_servers_that_start_together_fetch_once(tmp_path: Path, gated: Hub) -> None:
    """One holds the lock, the other waits for it and finds the copy."""
    codes = await asyncio.gather(
        *(_download(tmp_path, **_online(gated)) for _ in range(2)),
    )

    files = [path for path in gated.asked if path.startswith("GET") and "model.safetensors" in path]
    assert [code for code, _ in codes] == [0, 0]
    # One look at the file, and one request for its bytes.
    assert len(files) == 2
    assert len(_copies(tmp_path)) == 1


async def test_cut_copy_is_fetched_again(tmp_path: Path, gated: Hub) -> None:
    """The marker knows the size of every file."""
    await _download(tmp_path, **_online(gated))
    (copy,) = _copies(tmp_path)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])

    code, _ = await _download(tmp_path, **_online(gated))

    assert code == 0
    assert (copy / "model.safetensors").read_bytes() == hub_files()["model.safetensors"]


@pytest.mark.parametrize("place", ["models/small", "models/tiny-1b", "snapshot"])
async def test_model_that_lies_ready_is_used(tmp_path: Path, place: str) -> None:
    """Where the hub's own tool put it, or a hand, as the seed's /app/models/llama-3.2-3b."""
    if place == "snapshot":
        write_snapshot(tmp_path / "hf")
    else:
        write_model(tmp_path / place)

    code, said = await _download(tmp_path, SERVED_MODEL_NAME="small")

    assert code == 0
    assert (COMMIT if place == "snapshot" else place) in said


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"HF_TOKEN": ""}, "gated"),
        ({"HF_TOKEN": "hf_wrong"}, MODEL),
        ({"MODEL_NAME": "acme/unknown"}, "the hub shows no repository 'acme/unknown'"),
        ({"MODEL_NAME": "acme/../etc"}, "acme/../etc"),
        ({"MODEL_NAME": "/nowhere"}, "'/nowhere' does not exist; correct MODEL_NAME"),
        ({"MODEL_NAME": "s3://bucket/model"}, "s3"),
        ({"HF_HUB_OFFLINE": "1"}, "set HF_HUB_OFFLINE=0 to fetch it at start"),
        ({"MODELS_FOLDER": "/proc/models"}, "no model can be kept in /proc/models"),
    ],
)
@pytest.mark.parametrize("command", ["download", "start"])
async def test_refusal_is_one_line_that_says_what_to_do(
    tmp_path: Path, gated: Hub, environ: dict[str, str], said: str, command: str
) -> None:
    """The same at start as in a Job; exit code 2, no traceback, nothing left that looks whole."""
    # A bucket is asked for on this machine, and is as unknown here.
    buckets = {"AWS_ENDPOINT_URL_S3": gated.url}
    async with model_server(tmp_path, command, **_online(gated, **buckets) | environ) as running:
        code = await running.ended()

    assert code == 2
    assert running.log[-1].startswith("error: ")
    assert said in running.log[-1]
    assert not any("Traceback" in line or "hf_wrong" in line for line in running.log)
    assert _copies(tmp_path) == []


async def test_volume_without_room_is_told_before_the_download(tmp_path: Path) -> None:
    """The hub says how large a model is; nothing of it is asked for."""
    files = {**hub_files(), "model-00002.safetensors": _Pretends(2**60)}
    with hub(TOKEN, files) as large:
        code, said = await _download(tmp_path, **_online(large))

    assert code == 2
    assert MODEL in said
    assert "needs 11" in said
    assert "enlarge the volume" in said
    assert not any("/resolve/" in path for path in large.asked)


class _Pretends(bytes):
    """A file whose length is only said."""

    def __new__(cls, size: int) -> "_Pretends":
        made = super().__new__(cls)
        made.size = size
        return made

    size: int

    def __len__(self) -> int:
        return self.size


def test_what_came_already_needs_no_room(tmp_path: Path) -> None:
    """A resumed download needs the rest only."""
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / "weights").write_bytes(bytes(1_000_000))
    came = bytes_on_disk(partial)

    assert came >= 1_000_000
    assert room_missing(None, tmp_path, partial) == 0
    assert room_missing(came, tmp_path, partial) == 0
    assert room_missing(2**62, tmp_path, partial) > 0


async def test_cut_model_of_the_hub_is_not_kept(tmp_path: Path) -> None:
    """Half a weight file: no copy, and an exit code."""
    files = {**hub_files(), "model.safetensors": hub_files()["model.safetensors"][:-4]}
    with hub(TOKEN, files) as cut:
        code, said = await _download(tmp_path, **_online(cut))

    assert code == 2
    assert "model.safetensors" in said
    assert _copies(tmp_path) == []
