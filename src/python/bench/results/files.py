"""Where results are kept: one folder per run, written whole or not at all.  Input and output."""

import contextlib
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from servekit.errors.tree import ServeError


class ResultsNotWritten(ServeError):
    """A result could not be stored; earlier ones are as they were."""


def new_run_folder(root: Path, env: str, now: datetime) -> Path:
    """Make and return `root/env/<time>`; a number follows where that is taken.

    Raises:
        ResultsNotWritten: it cannot be made.
    """
    name = now.strftime("%Y%m%dT%H%M%S")
    try:
        (root / env).mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            folder = root / env / (name if attempt == 1 else f"{name}-{attempt}")
            if not folder.exists():
                folder.mkdir()
                return folder
    except OSError as error:
        raise ResultsNotWritten(_cannot(root / env, error)) from error
    raise ResultsNotWritten(f"{root / env}: 999 runs within one second; retry later")


def make_folder(folder: Path) -> None:
    """Make *folder* and those above it, unless they are there.

    Raises:
        ResultsNotWritten: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsNotWritten(_cannot(folder, error)) from error


def new_scratch_folder(root: Path) -> Path:
    """Make and return a folder for the logs of programs that no single run owns.

    Raises:
        ResultsNotWritten: it cannot be made.
    """
    folder = root / "logs" / str(os.getpid())
    make_folder(folder)
    return folder


def write_file(path: Path, content: bytes | str) -> None:
    """Write *path* in one step: a reader sees the old file or the new one, never half.

    Raises:
        ResultsNotWritten: the disk is full or the folder read-only; an old file is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ResultsNotWritten(_cannot(path, error)) from error


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> None:
    """Write every file of *files* into *folder*.

    Raises:
        ResultsNotWritten: as for `write_file`; what was written before it stays.
    """
    for name, content in files.items():
        write_file(folder / name, content)


def _cannot(path: Path, error: OSError) -> str:
    return f"{path}: cannot be written: {error.strerror}; free disk space or set --output-dir"
