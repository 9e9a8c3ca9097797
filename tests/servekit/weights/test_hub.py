"""Repositories of a hub, from a real server that speaks enough of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from servekit.errors.tree import WeightsMissing, WeightsUnreachable
from servekit.weights.hub import HubDownload
from servekit.weights.source import HubRepo
from tests.support.clock import FakeClock
from tests.support.hub_server import Hub, hub_server
from tests.support.model_archive import model_files


@pytest.fixture(name="hub")
async def _hub() -> AsyncIterator[Hub]:
    async with hub_server() as hub:
        yield hub


async def _fetch(hub: Hub, folder: Path, token: str | None = None) -> None:
    await asyncio.to_thread(HubDownload(token, hub.url), HubRepo("org/name", "v1"), folder)


async def test_a_repository_is_fetched_without_what_is_not_used(hub: Hub, tmp_path: Path) -> None:
    """Weights in other formats, often as large again, are left where they are."""
    await _fetch(hub, tmp_path / "repo")

    got = {path.name: path.read_bytes() for path in (tmp_path / "repo").iterdir() if path.is_file()}
    assert got == model_files()
    assert "GET /api/models/org/name/revision/v1" in hub.requests


@pytest.mark.parametrize(("token", "sent"), [("hf_x", {"Bearer hf_x"}), (None, {""})])
async def test_a_token_is_sent_only_where_one_is_given(
    hub: Hub, tmp_path: Path, token: str | None, sent: set[str]
) -> None:
    """A token of the machine's own is never sent along."""
    await _fetch(hub, tmp_path / "repo", token)

    assert hub.tokens == sent


@pytest.mark.parametrize(
    ("refuse", "error", "remedy"),
    [
        ((403, "GatedRepo"), WeightsMissing, "licence"),
        ((404, "RepoNotFound"), WeightsMissing, "correct the name"),
        ((404, "RevisionNotFound"), WeightsMissing, "no revision 'v1'"),
    ],
)
async def test_a_refusal_is_told_with_its_remedy(
    hub: Hub, tmp_path: Path, refuse: tuple[int, str], error: type[Exception], remedy: str
) -> None:
    """Gated, private, absent: each has its own way out."""
    hub.refuse = refuse

    with pytest.raises(error, match=remedy):
        await _fetch(hub, tmp_path / "repo")


@pytest.mark.parametrize(
    ("token", "refuse", "said"),
    [
        (None, (401, "GatedRepo"), "no HF_TOKEN was given"),
        ("hf_x", (403, "GatedRepo"), "has not accepted its licence"),
        ("hf_x", (401, ""), "mistyped, revoked or expired"),
        ("hf_x", (403, ""), "may not read org/name"),
    ],
    ids=["no token", "licence", "wrong token", "token without the right"],
)
async def test_a_token_that_does_not_open_is_told_from_a_licence(
    hub: Hub, tmp_path: Path, token: str | None, refuse: tuple[int, str], said: str
) -> None:
    """Four faults with four remedies; the token itself is never repeated."""
    hub.refuse = refuse

    with pytest.raises(WeightsMissing, match=said) as raised:
        await _fetch(hub, tmp_path / "repo", token)

    assert "hf_x" not in str(raised.value)


async def test_a_hub_that_is_gone_is_told(tmp_path: Path) -> None:
    """No network is not a wrong name."""
    download, repo = HubDownload(None, "http://127.0.0.1:9"), HubRepo("org/name", "v1")

    with pytest.raises(WeightsUnreachable, match="org/name"):
        await download.fetch(
            repo, tmp_path / "repo", clock=FakeClock(), report=lambda event, **_: event
        )


async def test_size_is_that_of_what_would_be_fetched(hub: Hub) -> None:
    """The unused copies do not count."""
    size = await asyncio.to_thread(HubDownload(None, hub.url).size, HubRepo("org/name", "v1"))

    assert size == sum(len(content) for content in model_files().values())


async def test_access_is_asked_for_without_a_download(hub: Hub) -> None:
    """Gated files are refused here already."""
    download = HubDownload("hf_x", hub.url)
    await asyncio.to_thread(download.require_access, HubRepo("org/name", "v1"))

    hub.refuse = (403, "GatedRepo")

    with pytest.raises(WeightsMissing, match="licence"):
        await asyncio.to_thread(download.require_access, HubRepo("org/name", "v1"))
    assert not any("/resolve/" in request for request in hub.requests)
