from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_embedding.client.cache import EmbeddingCache, Recipe
from modal_embedding.messages.protocol import EmbedOptions
from modal_embedding.messages.vectors import Vector
from servekit.errors.tree import SettingInvalid

RECIPES = st.builds(
    Recipe,
    st.sampled_from(["a", "ab"]),
    st.sampled_from(["", "b", "c"]),
    st.builds(
        EmbedOptions,
        st.sampled_from([None, 6, 64]),
        st.sampled_from([None, "", "None", "q"]),
        st.booleans(),
    ),
)


@given(RECIPES, st.sampled_from(["x", "bx", "cx"]), RECIPES, st.sampled_from(["x", "bx", "cx"]))
def test_keys_are_equal_when_everything_is(
    first: Recipe, first_text: str, second: Recipe, second_text: str
) -> None:
    """A vector is never found for what would have given another one."""
    same = (first, first_text) == (second, second_text)

    assert (first.key(first_text) == second.key(second_text)) == same


def test_vectors_outlive_the_process(tmp_path: Path) -> None:
    """Bit by bit, from another connection to the file."""
    key = Recipe("m").key("text")
    vector = np.array([0.1, -2.5], dtype=np.float32)
    with EmbeddingCache(tmp_path / "deep/cache.sqlite") as cache:
        cache.put([(key, vector)])

    with EmbeddingCache(tmp_path / "deep/cache.sqlite") as cache:
        found = cache.get([Recipe("m").key("other"), key])

    assert list(found) == [key]
    assert found[key].tobytes() == vector.tobytes()


def test_many_keys_are_looked_up_at_once(tmp_path: Path) -> None:
    """More than one statement can name."""
    keys = [Recipe("m").key(str(number)) for number in range(2000)]
    with EmbeddingCache(tmp_path / "c") as cache:
        cache.put((key, np.full(1, number, "f4")) for number, key in enumerate(keys))

        found = cache.get(keys)

        assert len(cache) == 2000
        assert [found[key][0] for key in keys] == list(range(2000))


def test_two_processes_may_share_a_file(tmp_path: Path) -> None:
    """The same vector from both is kept once."""
    key = Recipe("m").key("text")
    with EmbeddingCache(tmp_path / "c") as one, EmbeddingCache(tmp_path / "c") as other:
        one.put([(key, np.ones(2, "f4"))])
        other.put([(key, np.ones(2, "f4"))])

        assert len(one) == 1
        assert key in other.get([key])


MIB = 1024**2


def thousand(name: str, size: int) -> list[tuple[bytes, Vector]]:
    """A thousand vectors of *size* numbers, as one call of the client may bring them."""
    recipe = Recipe(name)
    return [(recipe.key(str(number)), np.full(size, number, "f4")) for number in range(1000)]


def test_a_cache_stays_below_its_bound(tmp_path: Path) -> None:
    """Twenty MB go through a cache of four; the disk sees little more than a call above it."""
    path = tmp_path / "c"
    with EmbeddingCache(path, max_bytes=4 * MIB) as cache:
        for round_ in range(20):
            cache.put(thousand(str(round_), 256))

        assert 0 < len(cache) < 4 * MIB / 1024

    assert path.stat().st_size < 7 * MIB


def test_what_was_asked_for_last_stays(tmp_path: Path) -> None:
    """Texts that are embedded again and again outlive those that came once, and later."""
    often, *_ = favourite = thousand("favourite", 256)
    with EmbeddingCache(tmp_path / "c", max_bytes=4 * MIB) as cache:
        cache.put(favourite)
        for round_ in range(10):
            cache.put(thousand(str(round_), 256))
            cache.get([often[0]])

        assert often[0] in cache.get([often[0]])
        assert favourite[1][0] not in cache.get([favourite[1][0]])


def test_a_bound_smaller_than_a_call_keeps_nothing_for_ever(tmp_path: Path) -> None:
    """It ends, and the vectors that were just computed are not lost to their caller."""
    with EmbeddingCache(tmp_path / "c", max_bytes=1) as cache:
        cache.put(thousand("m", 8))

        assert len(cache) == 0


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """It is left as it was."""
    path = tmp_path / "letter"
    path.write_text("Dear SQLite, " * 100)

    with pytest.raises(SettingInvalid, match="letter"):
        EmbeddingCache(path)

    assert path.read_text().startswith("Dear")
