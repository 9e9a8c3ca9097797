"""Secrets are taken out of text, and what explains a failure is left."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.secrets.masking import masked, masked_lines
from servekit.secrets.secret import MASK, Secret
from tests.servekit.secrets.corpus import FORMS, LINES, NAMES, NEAR_MISSES, TOKENS, Sample, sample

SEEDS = range(20)


def _leaks(made: Sample) -> list[str]:
    """What of the secrets is left: whole, or six characters of it in a row."""
    left = masked(made.text)
    pieces = [
        secret[at : at + 6] for secret in made.secrets for at in range(max(1, len(secret) - 5))
    ]
    return [f"{made.text!r} -> {left!r}" for piece in pieces if piece in left and piece][:1]


@pytest.mark.parametrize("kind", TOKENS)
def test_a_token_is_masked_wherever_it_stands(kind: str) -> None:
    """By its own looks, and the word before it is left."""
    for seed in SEEDS:
        made = sample(TOKENS[kind], seed)
        assert _leaks(made) == []


@pytest.mark.parametrize("kind", LINES)
def test_a_line_of_a_tool_is_masked(kind: str) -> None:
    """By what the tool means by it."""
    for seed in SEEDS:
        made = sample(LINES[kind], seed)
        assert _leaks(made) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_a_value_beside_its_name_is_masked(name: str, form: str) -> None:
    """In every notation, whatever the value looks like; the name is left."""
    for seed in SEEDS[:5]:
        made = sample(FORMS[form].format(name=name, value=NAMES[name]), seed)
        assert _leaks(made) == []
        assert name in masked(made.text)


@pytest.mark.parametrize("line", NEAR_MISSES)
def test_what_explains_a_failure_is_left(line: str) -> None:
    """Words about tokens and passwords, digests, placeholders, paths and symbols."""
    assert masked(line) == line
    assert masked(f"Step #1: {line}") == f"Step #1: {line}"


def test_there_are_at_least_sixty_kinds() -> None:
    """Tokens, lines of tools, and names in every notation."""
    assert len(TOKENS) + len(LINES) >= 120
    assert len(NAMES) * len(FORMS) >= 700


def _key(seed: int, kind: str, lines: int) -> list[str]:
    made = sample("\n".join(["<b64:64>"] * lines + ["<b64:21>="]), seed).text.split("\n")
    return [f"-----BEGIN {kind}-----", *made, f"-----END {kind}-----"]


@pytest.mark.parametrize("prefix", ["", "    ", 'Step #3 - "build": ', "2026-11-28T10:00:00Z "])
@pytest.mark.parametrize(
    "kind", ["RSA PRIVATE KEY", "PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"]
)
@pytest.mark.parametrize("lines", [1, 3, 25])
def test_a_private_key_is_masked_whole_and_cut(kind: str, prefix: str, lines: int) -> None:
    """Wherever a log begins or ends, and whatever stands before each line."""
    key = _key(lines, kind, lines)
    log = [f"{prefix}{line}" for line in ("before it", *key, "after it")]
    for start in range(len(log)):
        for end in range(start + 1, len(log) + 1):
            left = "\n".join(masked_lines(log[start:end]))
            assert not any(line[:20] in left for line in key[1:-2])
            if start <= 1 or end == len(log):
                assert key[-2] not in left.split()
            if start == 0:
                assert "before it" in left
            if end == len(log) and start < len(key):
                assert "after it" in left


def test_a_key_in_one_line_of_json_is_masked() -> None:
    """A service account's file, whole and cut."""
    key = "\\n".join(_key(1, "PRIVATE KEY", 20))
    for text in (key, key[: len(key) // 2]):
        left = masked(f'{{"type": "service_account", "private_key": "{text}", "x": 1}}')
        assert "service_account" in left
        assert not any(line[:16] in left for line in key.split("\\n")[1:-1])


def test_what_is_known_is_masked_whatever_it_looks_like() -> None:
    """A word can be a password."""
    assert masked("it says orange here", [Secret("orange"), Secret("")]) == f"it says {MASK} here"


@given(st.text(max_size=300))
def test_masking_twice_is_masking_once(text: str) -> None:
    """What is left looks like no secret; nothing raises."""
    assert masked(masked(text)) == masked(text)


PIECES = (
    "password", "token", "=", ":", " ", '"', "'", "\\", "\n", "://", "@", "a", "B2", "eyJ", "-u ",
    "-----BEGIN PRIVATE KEY-----", "[", "{", "?sig=", "Authorization: Bearer ", ",", "/", "x" * 30,
)  # fmt: skip


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=30), seed=st.integers(0, 10**6))
def test_a_token_is_masked_among_anything(pieces: list[str], seed: int) -> None:
    """No text around a token, open quotes and half URLs included, keeps it from being found."""
    token = sample("ghp_<b62:36>", seed)
    text = "".join(pieces)

    assert token.secrets[0] not in masked(f"{text} {token.text} {text}")


HOSTILE = (
    "a", "a=b ", "password=a ", "token: x ", "token:token:", "password=[", 'password="', "@", " ",
    "password='", "Authorization: ", "eyJaaaa-", "hf_", "://a:b", "://", "-u a:", "login -p", "'",
    "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "name: password ", '\\"', "mysql ",
    "A1b2C3d4E5f6G7h8I9j0K ", "aB1c/", "0123456789abcdef", " password=x,password=y", "?sig=a&",
    "password: |\n",
)  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_long_line_takes_time_by_its_length(piece: str) -> None:
    """Four times the length costs about four times as much, not sixteen times."""
    size = 256 * 1024
    whole = (piece * (size // len(piece) + 1))[:size]

    assert _seconds(whole) < max(1.0, 8 * _seconds(whole[: size // 4]))


def test_a_long_line_of_a_log_is_masked_in_less_than_a_second() -> None:
    """256 kB of ordinary words and secrets in one line."""
    chance = random.Random(7)
    pieces = [*NEAR_MISSES, *(sample(line, 1).text for line in LINES.values())]
    line = " ".join(chance.choices(pieces, k=6000))[: 256 * 1024].replace("\n", " ")

    assert _seconds(line) < 1.0


def _seconds(text: str) -> float:
    """Of a processor, the least of three: what else the machine does is no cost of ours."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        masked(text)
        taken.append(time.process_time() - start)
    return min(taken)
