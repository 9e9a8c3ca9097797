"""The search for secrets finds planted ones: finding nothing proves nothing by itself."""

import pytest

from tests.images.secret_scan import ASSIGNMENT, PRIVATE_KEY, TOKEN

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.mark.parametrize(
    "planted", [f"hf_{LETTERS[:34]}", "AKIA" + "A1B2" * 4, f"ghp_{LETTERS[:36]}"]
)
def test_tokens_are_found(planted: str) -> None:
    """Wherever in a file it stands."""
    assert TOKEN.search(f"x = '{planted}'\n".encode())


def test_a_private_key_is_found() -> None:
    """The header with key material below it; the header alone is in many a documentation."""
    header = b"-----BEGIN PRIVATE KEY-----\n"

    assert PRIVATE_KEY.search(header + b"A" * 64)
    assert not PRIVATE_KEY.search(header + b"...\n")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"HF_TOKEN=abcdef123", True),
        (b"HF_TOKEN=", False),
        (b"RUN --mount=type=secret,id=HF_TOKEN true", False),
        (b"HF_TOKEN=$(cat /run/secrets/HF_TOKEN)", False),
    ],
)
def test_assignments_give_a_value_away(line: bytes, found: bool) -> None:
    """A mount or a name is no secret."""
    assert bool(ASSIGNMENT.search(line)) is found
