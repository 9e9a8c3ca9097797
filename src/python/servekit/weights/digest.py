"""The hash of a file, made while the file arrives."""

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from servekit.weights.arrivals import Arrivals, Restarted

_HASH_BYTES = 4 * 1024 * 1024


def digest_behind(path: Path, kind: str, arrivals: Arrivals, stop: threading.Event) -> str:
    """Return `kind:hash` of the file *path* whose download *arrivals* tells of.  Blocks.

    *kind* is `sha256`, `md5` or `git-sha1`.

    Raises:
        Stopped: *stop* was set.
    """
    while True:
        since = arrivals.begun(stop)
        with suppress(Restarted):
            digest = _started(kind, arrivals.size)
            _read_behind(path, digest, arrivals, stop, since)
            return f"{kind}:{digest.hexdigest()}"


def _started(kind: str, size: int | None) -> Any:
    if kind == "git-sha1":
        # Of a blob: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects.
        return hashlib.sha1(b"blob %d\0" % (size or 0), usedforsecurity=False)
    return hashlib.new(kind, usedforsecurity=kind == "sha256")


def _read_behind(
    path: Path, digest: Any, arrivals: Arrivals, stop: threading.Event, since: int
) -> None:
    offset = 0
    descriptor: int | None = None
    try:
        while (end := arrivals.wait(offset, stop, since=since)) > offset:
            if descriptor is None:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            piece = os.pread(descriptor, min(end - offset, _HASH_BYTES), offset)
            digest.update(piece)
            offset += len(piece)
    finally:
        if descriptor is not None:
            os.close(descriptor)
