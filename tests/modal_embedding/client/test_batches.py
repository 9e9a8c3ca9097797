from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from modal_embedding.client.batches import batched

TEXTS = st.lists(st.text(min_size=1, max_size=12), max_size=40)


@given(TEXTS, st.integers(1, 9), st.integers(1, 30))
def test_every_text_travels_once(texts: list[str], size: int, characters: int) -> None:
    """No text is lost, and none is doubled."""
    batches = batched(texts, size=size, max_characters=characters)

    assert Counter(text for batch in batches for text in batch) == Counter(texts)


@given(TEXTS, st.integers(1, 9), st.integers(1, 30))
def test_no_batch_is_too_large(texts: list[str], size: int, characters: int) -> None:
    """Only a text that is too long by itself passes the limit, and it goes alone."""
    for batch in batched(texts, size=size, max_characters=characters):
        assert 1 <= len(batch) <= size
        assert len(batch) == 1 or sum(map(len, batch)) <= characters


def test_texts_of_like_length_travel_together() -> None:
    """A short text does not wait for a long one."""
    assert batched(["aaaa", "b", "cccc", "d"], size=2) == [["b", "d"], ["aaaa", "cccc"]]
