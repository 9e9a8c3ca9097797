"""KVCached's usage, read from shared memory that somebody else made."""

import struct
import uuid
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from kvcached_engine.segment import SHARED_MEMORY, SegmentUsage, claimed, read_usage
from servekit.errors.tree import SettingInvalid


@pytest.fixture
def name() -> Iterator[str]:
    name = f"servekit-test-{uuid.uuid4().hex}"
    yield name
    for left in SHARED_MEMORY.glob(f"{name}*"):
        left.unlink()


def test_an_account_is_read_from_posix_shared_memory(name: str) -> None:
    """As the engine's process writes it: limit, used, preallocated."""
    segment = SharedMemory(name, create=True, size=24)
    assert segment.buf is not None
    segment.buf[:24] = struct.pack("=3q", 300, 200, 100)

    usage = read_usage(SHARED_MEMORY / name)

    segment.close()
    segment.unlink()
    assert usage == SegmentUsage(limit=300, used=200, preallocated=100)


@pytest.mark.parametrize(
    ("what", "content"),
    [
        ("nothing written yet", struct.pack("=3q", 0, 0, 0)),
        ("too short", b"\0" * 16),
        ("another's segment", b"\1" * 4096),
        ("empty", b""),
    ],
)
def test_what_is_no_account_proves_nothing(tmp_path: Path, what: str, content: bytes) -> None:
    """Many programs keep segments beside it."""
    segment = tmp_path / "segment"
    segment.write_bytes(content)

    assert read_usage(segment) is None, what


def test_a_segment_that_is_not_there_is_no_account(tmp_path: Path) -> None:
    """An engine without KVCached makes none."""
    assert read_usage(tmp_path / "segment") is None


def test_what_a_killed_engine_left_is_removed(tmp_path: Path) -> None:
    """It would pass for the usage of the next."""
    segment = tmp_path / "segment"
    segment.write_bytes(struct.pack("=3q", 1, 0, 0))

    with claimed(segment):
        assert read_usage(segment) is None


def test_two_engines_cannot_have_one_name(tmp_path: Path) -> None:
    """The second would take the first one's memory for its own."""
    segment = tmp_path / "segment"

    with claimed(segment), pytest.raises(SettingInvalid, match="which another engine"):
        claimed(segment).__enter__()


def test_a_name_is_free_again(tmp_path: Path) -> None:
    """A restarted container finds its own name."""
    segment = tmp_path / "segment"

    with claimed(segment):
        pass
    with claimed(segment):
        segment.write_bytes(struct.pack("=3q", 1, 0, 0))

    assert read_usage(segment) is not None
