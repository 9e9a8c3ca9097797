"""Many texts as few requests.  Pure."""

from collections.abc import Sequence

# Characters in one request.  At 4 bytes each it stays below the 8 MB that front ends commonly take.
MAX_BATCH_CHARACTERS = 1_000_000


def batched(
    texts: Sequence[str], *, size: int, max_characters: int = MAX_BATCH_CHARACTERS
) -> list[list[str]]:
    """Return batches of at most *size* texts and *max_characters*; a longer text goes alone.

    Texts of like length travel together, so that a short one does not wait for a long one.
    """
    batches: list[list[str]] = []
    batch: list[str] = []
    characters = 0
    for text in sorted(texts, key=len):
        if batch and (len(batch) == size or characters + len(text) > max_characters):
            batches.append(batch)
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    return [*batches, batch] if batch else batches
