"""What an image, a sound or a film in a prompt is, and how many tokens it takes.  Pure.

A model's processor decides that, from the picture's size; the rules below are those of the families
that vLLM serves most (their `preprocessor_config.json` and vLLM's `get_num_image_tokens`).  What
they get wrong, and models that are not listed, the engine's own counts correct: token_estimate.py.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Callable
from math import ceil

import msgspec
import xxhash

# A picture of unknown size, such as one behind a URL.
USUAL_SIDE = 1024
# A JPEG's size stands behind its EXIF data, which takes at most 64 KiB.
_HEAD_CHARACTERS = 96 * 1024
# 16 kHz, 16 bits, one channel; what is compressed takes about half of that.
_WAV_BYTES_PER_S, _OTHER_BYTES_PER_S = 32_000, 16_000
# Whisper's encoder, halved, as in Qwen-Audio and Voxtral (12.5) and their like.
_AUDIO_TOKENS_PER_S = 25
_FILM_TOKENS = 2_000

_JPEG_SIZE = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


class Media(msgspec.Struct, frozen=True):
    """One part of a prompt that is no text.

    Attributes:
        identity: a hash; equal where the engine would get the same bytes, or the same URL.
        tokens: an estimate.
    """

    identity: int
    tokens: int


def media_of(kind: str, source: str, model: str) -> Media:
    """Return what *source*, a URL, a data URL or base64, is to *model*; *kind* is its `type`."""
    identity = xxhash.xxh3_64_intdigest(source.encode("utf-8", "surrogatepass"))
    inline = _inline(source)
    if "audio" in kind:
        return Media(identity, _audio_tokens(source, inline))
    if "video" in kind:
        return Media(identity, _FILM_TOKENS)
    size = None if inline is None else image_size(_decoded_head(source, inline))
    return Media(identity, image_tokens(model, *(size or (USUAL_SIDE, USUAL_SIDE))))


def _inline(source: str) -> int | None:
    """Return where the base64 of *source* begins; None where it is a URL."""
    if source.startswith("data:"):
        return source.find(",") + 1
    return None if "://" in source[:16] else 0


def _decoded_head(source: str, start: int) -> bytes:
    head = source[start : start + _HEAD_CHARACTERS]
    try:
        return b64decode(head[: len(head) // 4 * 4])
    except (binascii.Error, ValueError):
        return b""


def _audio_tokens(source: str, inline: int | None) -> int:
    if inline is None:
        return 30 * _AUDIO_TOKENS_PER_S
    is_wav = source.startswith("UklGR", inline)
    bytes_per_s = _WAV_BYTES_PER_S if is_wav else _OTHER_BYTES_PER_S
    return max(1, (len(source) - inline) * 3 * _AUDIO_TOKENS_PER_S // (4 * bytes_per_s))


def image_size(head: bytes) -> tuple[int, int] | None:
    """Return width and height, by the first bytes of a picture; None where they do not say."""
    size = _raw_size(head)
    return size if size is not None and min(size) > 0 else None


def _raw_size(head: bytes) -> tuple[int, int] | None:
    if head.startswith(b"\x89PNG") and len(head) >= 24:
        return _number(head, 16, 4), _number(head, 20, 4)
    if head.startswith(b"GIF8") and len(head) >= 10:
        return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    if head.startswith(b"RIFF") and head[8:15] == b"WEBPVP8" and len(head) >= 30:
        return _webp_size(head)
    return _jpeg_size(head) if head.startswith(b"\xff\xd8") else None


def _number(head: bytes, at: int, size: int) -> int:
    return int.from_bytes(head[at : at + size], "big")


def _webp_size(head: bytes) -> tuple[int, int] | None:
    little = int.from_bytes
    if head[15:16] == b"X":
        return 1 + little(head[24:27], "little"), 1 + little(head[27:30], "little")
    if head[15:16] == b"L":
        bits = little(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return little(head[26:28], "little") & 0x3FFF, little(head[28:30], "little") & 0x3FFF


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        if head[at + 1] in _JPEG_SIZE:
            return _number(head, at + 7, 2), _number(head, at + 5, 2)
        at += 2 + max(2, _number(head, at + 2, 2))
    return None


def _patches(side: int, most: int, least: int = 4) -> Callable[[int, int], int]:
    """A token for each square of *side* pixels, the picture scaled to fit."""

    def tokens(width: int, height: int) -> int:
        return min(most, max(least, round(width / side) * round(height / side)))

    return tokens


def _rows(side: int, longest: int) -> Callable[[int, int], int]:
    """As `_patches`, of a picture that is at most *longest* pixels long, and one for each row."""

    def tokens(width: int, height: int) -> int:
        scale = min(1.0, longest / max(width, height))
        columns, rows = ceil(width * scale / side), ceil(height * scale / side)
        return rows * (columns + 1)

    return tokens


def _tiles(side: int, each: int, most: int) -> Callable[[int, int], int]:
    """*each* tokens for every tile of *side* pixels, and for a small copy of the whole."""

    def tokens(width: int, height: int) -> int:
        number = min(most, ceil(width / side) * ceil(height / side))
        return each * (number + (number > 1))

    return tokens


def _always(tokens: int) -> Callable[[int, int], int]:
    def same(width: int, height: int) -> int:
        del width, height
        return tokens

    return same


_FAMILIES: tuple[tuple[re.Pattern[str], Callable[[int, int], int]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), rule)
    for pattern, rule in (
        (r"qwen-?3(\.\d)?-?(vl|omni)", _patches(32, 16_384)),
        (r"qwen-?2(\.\d)?-?(vl|omni)|qvq", _patches(28, 16_384)),
        (r"pixtral", _rows(16, 1024)),
        (r"mistral-?small|mistral-?medium|ministral|magistral", _rows(28, 1540)),
        (r"gemma-?3|paligemma|medgemma", _always(256)),
        (r"llava-?1\.5|bakllava", _always(576)),
        (r"llava", _tiles(336, 576, 4)),
        (r"intern(vl|s1)", _tiles(448, 256, 12)),
        (r"llama-?3\.2.*vision|mllama", _tiles(560, 1601, 4)),
        (r"llama-?4", _tiles(336, 144, 16)),
        (r"minicpm", _tiles(448, 64, 9)),
        (r"phi-?[34]", _tiles(336, 144, 16)),
        (r"smolvlm|idefics3", _tiles(512, 64, 16)),
    )
)
_UNLISTED = _patches(28, 4_096)


def image_tokens(model: str, width: int, height: int) -> int:
    """Return the tokens that *model* makes of a picture, by what its name says of its family."""
    for pattern, rule in _FAMILIES:
        if pattern.search(model):
            return rule(width, height)
    return _UNLISTED(width, height)
