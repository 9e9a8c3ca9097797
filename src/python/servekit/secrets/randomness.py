"""Whether text was made by a generator or by a person.  Pure.

Letters and digits that were drawn at random change their class (lower, upper, digit) at 62 % of
neighbours in base 62, at 47 % in hexadecimal; words, paths and identifiers at 5 to 25 %.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

Span = tuple[int, int]

# Shorter than 20 characters, chance and names look alike.
_LEAST_CHARS = 20
# Two standard deviations below base 62 at 20 characters, and above `getHTTP2ServerV3Config`.
_LEAST_CHANGES = 0.36
_LEAST_BITS = 3.3

_RUN = re.compile(r"[A-Za-z0-9][\w+/~-]{19,}+={0,2}+")
_PIECE = re.compile(rf"[A-Za-z0-9+/=]{{{_LEAST_CHARS},}}+")
_SAME_CLASS = re.compile(r"[a-z]+|[A-Z]+|[0-9]+")
# What is published to be compared: digests and their like, and mangled names.
_PUBLIC_BEFORE = re.compile(r"(?i)(?:(?:sha(?:1|224|256|384|512)|md5|h1|blake\w{1,3})[-:=]|_)\Z")
_PUBLIC_START = re.compile(r"(?i)sha(?:1|224|256|384|512)[-=]|h1=")
_HEX = re.compile(r"[0-9a-fA-F-]+")


def random_runs(text: str) -> Iterator[Span]:
    """Yield where *text* has 20 characters and more that look drawn at random."""
    for match in _RUN.finditer(text):
        start, end = match.span()
        run = match.group()
        if _PUBLIC_BEFORE.search(text[max(0, start - 8) : start]) or _PUBLIC_START.match(run):
            continue
        if is_random(run) or any(is_random(piece) for piece in _PIECE.findall(run)):
            yield start, end


def is_random(run: str) -> bool:
    """Return whether *run* looks drawn from letters of both cases and digits."""
    if len(run) < _LEAST_CHARS or _HEX.fullmatch(run):
        return False
    classes = sum(bool(re.search(one, run)) for one in ("[a-z]", "[A-Z]", "[0-9]"))
    return classes == 3 and _changes(run) >= _LEAST_CHANGES and _bits(run) >= _LEAST_BITS


def is_mixed(token: str) -> bool:
    """Return whether *token* has letters and digits in turn, as no word has."""
    return bool(re.search(r"[0-9]", token) and re.search(r"[A-Za-z]", token)) and (
        _changes(token) >= 0.2
    )


def _changes(run: str) -> float:
    """Return how often neighbours differ in class, 0.0 to 1.0; punctuation is no change."""
    letters = sum(character.isalnum() for character in run)
    parts = re.findall(r"[A-Za-z0-9]+", run)
    stretches = len(_SAME_CLASS.findall(run))
    return (stretches - len(parts)) / max(letters - len(parts), 1)


def _bits(run: str) -> float:
    """Return Shannon's entropy per character."""
    return -sum(n / len(run) * math.log2(n / len(run)) for n in Counter(run).values())


_ASCII_LOWER = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def lowered(text: str) -> str:
    """Return *text* in lower case and in the same length, which `str.lower` does not promise."""
    return text.lower() if text.isascii() else text.translate(_ASCII_LOWER)
