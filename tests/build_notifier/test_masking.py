"""Secrets are taken out before text goes anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_notifier.masking import MASK, masked, masked_lines

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGH"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"using hf_{LETTERS}", "using ***"),
        (f"clone https://bot:ghp_{LETTERS}@github.com/a/b", "clone https://***@github.com/a/b"),
        ("curl -H 'Authorization: Bearer abc.def-123456'", "curl -H 'Authorization: Bearer ***'"),
        ("HF_TOKEN=hunter2hunter2", "HF_TOKEN=***"),
        ('{"api_key": "hunter2hunter2"}', '{"api_key": ***}'),
        ("--password hunter2hunter2", "--password ***"),
        (f"key AIza{LETTERS}", "key ***"),
        ("AKIA" + "A1B2" * 4, "***"),
    ],
)
def test_secret_is_masked_and_the_rest_is_kept(text: str, left: str) -> None:
    """One still sees what kind of line it was."""
    assert masked(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "Step #1: ERROR: failed to solve: process did not complete: exit code: 1",
        "the token is missing",
        "128 tokens in 0.07 s",
        "Downloading https://index.example/simple/secretstorage",
        "--mount=type=secret,id=HF_TOKEN",
    ],
)
def test_ordinary_line_is_kept(text: str) -> None:
    """A log without words helps nobody."""
    assert masked(text) == text


def test_private_key_is_masked_over_lines() -> None:
    """Each line of one alone looks like nothing."""
    lines = ["before", "-----BEGIN RSA PRIVATE KEY-----", "MIIE", "-----END RSA PRIVATE KEY-----"]

    assert masked_lines(lines) == ["before", MASK]


@given(st.text(max_size=200))
def test_masking_twice_is_masking_once(text: str) -> None:
    """What is left looks like no secret."""
    assert masked(masked(text)) == masked(text)
