"""What is kept is kept whole, and what was kept before stays."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.results.files import (
    ResultsNotWritten,
    make_folder,
    new_run_folder,
    write_file,
    write_files,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_two_runs_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    """Neither writes over the other."""
    first, second = (new_run_folder(tmp_path, "managed", NOW) for _ in range(2))

    assert (first.name, second.name) == ("20260102T030405", "20260102T030405-2")


def fill_the_disk_under(folder: Path, name: str) -> None:
    """Let the file in which *name* is prepared be one that has no space left."""
    (folder / f".{name}.{os.getpid()}").symlink_to("/dev/full")


def test_a_full_disk_loses_no_earlier_result(tmp_path: Path) -> None:
    """The message says what is full and what to do; what was there is there, and no half of
    anything beside it."""
    (tmp_path / "b").write_text("old")
    fill_the_disk_under(tmp_path, "b")

    with pytest.raises(ResultsNotWritten, match="b: cannot be written: No space left on device;"):
        write_files(tmp_path, {"a": "first", "b": "second", "c": "third"})

    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"a": "first", "b": "old"}


def test_a_folder_in_the_way_of_a_file_is_named(tmp_path: Path) -> None:
    """Whoever gave a file as --output-dir learns which."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ResultsNotWritten, match="file/x"):
        make_folder(tmp_path / "file" / "x")
    with pytest.raises(ResultsNotWritten, match="file/x"):
        write_file(tmp_path / "file" / "x", "")
