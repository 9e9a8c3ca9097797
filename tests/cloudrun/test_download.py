"""The download at build time, against a hub that checks the token."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudrun.fetch import fetch_model
from servekit.errors.tree import WeightsUnreachable
from servekit.weights.source import HubRepo
from tests.cloudrun.container import container
from tests.support.gated_hub import COMMIT, MODEL, Hub, hub, hub_files

TOKEN = "hf_thisTokenOpensTheModelThatIsGated"  # noqa: S105  (the stand-in's)


@pytest.fixture(name="gated")
def _gated() -> Iterator[Hub]:
    with hub(TOKEN) as running:
        yield running


async def _download(folder: Path, gated: Hub, **environ: str) -> tuple[int, str]:
    given = {"HF_ENDPOINT": gated.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, **environ}
    async with container(folder, "download", **given) as running:
        code = await running.ended()
    said = "\n".join(running.log)
    assert TOKEN not in said
    return code, said


def _snapshots(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "hf").rglob("snapshots/*"))


async def test_model_is_where_the_hubs_library_looks_for_it(tmp_path: Path, gated: Hub) -> None:
    """As a snapshot under its commit, with the revision that was asked for as a reference."""
    code, _ = await _download(tmp_path, gated)

    repo = tmp_path / "hf/hub/models--acme--tiny-1b"
    assert code == 0
    assert (repo / "refs/main").read_text() == COMMIT
    assert {path.name for path in (repo / "snapshots" / COMMIT).iterdir()} == set(hub_files())


async def test_downloaded_model_is_served_offline(tmp_path: Path, gated: Hub) -> None:
    """With no hub and no token at start."""
    await _download(tmp_path, gated)

    async with container(tmp_path, SKIP_PREWARM="1") as running:
        await running.url()


async def test_model_can_be_fetched_at_start(tmp_path: Path, gated: Hub) -> None:
    """An image without weights: HF_HUB_OFFLINE=0 and a token."""
    async with container(
        tmp_path, HF_ENDPOINT=gated.url, HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN
    ) as running:
        await running.url()

    assert _snapshots(tmp_path) == [COMMIT]


async def test_second_download_asks_nobody(tmp_path: Path, gated: Hub) -> None:
    """A whole snapshot is used as it is."""
    await _download(tmp_path, gated)
    gated.asked.clear()

    assert (await _download(tmp_path, gated))[0] == 0
    assert gated.asked == []


@pytest.mark.parametrize(
    ("environ", "code", "said"),
    [
        ({"HF_TOKEN": ""}, 2, "is gated, and no HF_TOKEN was given"),
        ({"HF_TOKEN": "hf_wrong"}, 2, "the hub does not know this HF_TOKEN"),
        ({"MODEL_NAME": "acme/unknown"}, 2, "acme/unknown"),
        ({"MODEL_NAME": "acme/../etc"}, 2, "MODEL_NAME"),
    ],
)
async def test_refused_download_says_why_and_leaves_nothing(
    tmp_path: Path, gated: Hub, environ: dict[str, str], code: int, said: str
) -> None:
    """One line for whoever reads the build's log; the token is not in it."""
    found, log = await _download(tmp_path, gated, **environ)

    assert found == code
    assert said in log.splitlines()[-1]
    assert "hf_wrong" not in log
    assert "Traceback" not in log
    assert _snapshots(tmp_path) == []


async def test_cut_model_is_not_published(tmp_path: Path) -> None:
    """The hub gives half a weight file: no snapshot, and an exit code."""
    files = {**hub_files(), "model.safetensors": hub_files()["model.safetensors"][:-4]}
    with hub(TOKEN, files) as cut:
        code, log = await _download(tmp_path, cut)

    assert code == 2
    assert "model.safetensors" in log
    assert _snapshots(tmp_path) == []


def test_full_disk_leaves_no_half_snapshot(tmp_path: Path) -> None:
    """What came is kept beside the snapshots, for the next attempt; nobody can take it for one."""

    def fill(_: HubRepo, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WeightsUnreachable, match=r"No space left on device; make room"):
        fetch_model(MODEL, "main", tmp_path / "hf", fill)

    assert _snapshots(tmp_path) == []
    assert not list((tmp_path / "hf").rglob("refs/*"))


async def test_place_that_cannot_be_written_is_told(tmp_path: Path, gated: Hub) -> None:
    """HF_HOME is a file: exit code 2 and one line."""
    (tmp_path / "hf").write_text("a file where a folder should be")

    code, log = await _download(tmp_path, gated)

    assert code == 2
    assert "could not be kept" in log.splitlines()[-1]
