"""Copies of models on disk."""

from pathlib import Path

import pytest

from servekit.errors.tree import WeightsRefused
from servekit.weights.cache import (
    MARKER,
    Cache,
    choose_cache,
    find_copy,
    find_placed,
    is_complete,
    link_copy,
    put_copy,
    remove_dangling_links,
)
from tests.support.model_archive import write_model


def _put(cache: Cache, name: str = "m-1") -> Path:
    return put_copy(cache, name, write_model(cache.partial(name)), "https://host/m.tar")


@pytest.fixture(name="cache")
def _cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "volume", tmp_path / "checkpoints")


def test_a_copy_that_was_put_is_found(cache: Cache) -> None:
    """What is put is whole, where it was announced."""
    place = _put(cache)

    assert find_copy(cache, "m-1") == place == cache.store / "m-1"
    assert find_copy(cache, "m-2") is None


@pytest.mark.parametrize("change", ["marker", "file", "size", "garbage"])
def test_a_copy_that_lost_something_is_no_copy(cache: Cache, change: str) -> None:
    """A copy is believed by its marker and its files' sizes, not by being there."""
    place = _put(cache)
    weights = place / "model.safetensors"
    match change:
        case "marker":
            (place / MARKER).unlink()
        case "file":
            weights.unlink()
        case "size":
            weights.write_bytes(b"")
        case "garbage":
            (place / MARKER).write_text("{}")

    assert not is_complete(place)
    assert find_copy(cache, "m-1") is None


def test_a_broken_copy_is_replaced(cache: Cache) -> None:
    """A new copy takes the place of one that is not whole."""
    (_put(cache) / "model.safetensors").unlink()

    _put(cache)

    assert find_copy(cache, "m-1") is not None


def test_an_archive_cannot_bring_its_own_marker(cache: Cache) -> None:
    """A marker is ours to write; one that comes with a model could vouch for anything."""
    model = write_model(cache.partial("m-1"))
    (model / MARKER).write_text('{"source": "", "files": {}}')

    with pytest.raises(WeightsRefused):
        put_copy(cache, "m-1", model, "")


def test_a_volume_is_used_where_it_is_mounted(tmp_path: Path) -> None:
    """/weights where it is there, ./checkpoints else."""
    checkpoints = tmp_path / "checkpoints"

    assert choose_cache(tmp_path, checkpoints).store == tmp_path
    assert choose_cache(tmp_path / "absent", checkpoints).store == checkpoints


def test_a_copy_on_a_volume_is_linked(cache: Cache) -> None:
    """People look in ./checkpoints; the link leads to the copy, also the second time."""
    place = _put(cache)

    links = [link_copy(cache, "m-1") for _ in range(2)]

    assert links == [cache.checkpoints / "m-1"] * 2
    assert links[0].is_symlink()
    assert links[0].resolve() == place.resolve()


def test_a_link_that_leads_elsewhere_is_turned(cache: Cache, tmp_path: Path) -> None:
    """A link of an older program does not hide the copy."""
    place = _put(cache)
    cache.checkpoints.mkdir()
    (cache.checkpoints / "m-1").symlink_to(tmp_path)

    assert link_copy(cache, "m-1").resolve() == place.resolve()


def test_a_folder_of_somebody_else_is_not_replaced_by_a_link(cache: Cache) -> None:
    """What people put into ./checkpoints stays theirs."""
    place = _put(cache)
    (cache.checkpoints / "m-1").mkdir(parents=True)

    assert link_copy(cache, "m-1") == place


def test_dangling_links_are_removed_and_others_stay(cache: Cache, tmp_path: Path) -> None:
    """A link whose volume is gone would hide the way to a new copy."""
    cache.checkpoints.mkdir()
    (cache.checkpoints / "dead").symlink_to(tmp_path / "gone")
    (cache.checkpoints / "alive").symlink_to(tmp_path)

    assert remove_dangling_links(cache.checkpoints) == ["dead"]
    assert [path.name for path in cache.checkpoints.iterdir()] == ["alive"]
    assert remove_dangling_links(tmp_path / "absent") == []


def test_a_model_placed_by_hand_is_found(cache: Cache) -> None:
    """People fill ./checkpoints/<model> themselves, under the name that cog-vllm used."""
    placed = write_model(cache.checkpoints / "Qwen3")

    assert find_placed(cache, "Qwen3") == placed


def test_half_a_model_or_an_old_link_is_not_taken_for_one_placed_by_hand(
    cache: Cache, tmp_path: Path
) -> None:
    """cog-vllm left both: unfinished folders, and links to whatever model came last."""
    (cache.checkpoints / "half").mkdir(parents=True)
    (cache.checkpoints / "half" / "config.json").write_text("{}")
    (cache.checkpoints / "linked").symlink_to(write_model(tmp_path / "vllm"))

    assert find_placed(cache, "half") is None
    assert find_placed(cache, "linked") is None
