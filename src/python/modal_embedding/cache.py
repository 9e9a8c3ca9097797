"""Embeddings that were paid for once, kept in a SQLite file.

A vector is found again by the content that decided it: model, revision, dimensions and the whole
prompt.  Several processes may share a file.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modal_embedding.protocol import Ask
from modal_embedding.vectors import Vector
from servekit.errors.tree import SettingInvalid

# SQLite's limit on variables of one statement has been at least this since 2000.
_KEYS_PER_QUERY = 900

_SCHEMA = """
CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What, besides its text, decides a vector."""

    model: str
    revision: str = ""
    ask: Ask = Ask()  # noqa: RUF009  # frozen

    def key(self, text: str) -> bytes:
        """Return 32 bytes that stand for the text made this way."""
        ask = self.ask
        how = (str(ask.dimensions), repr(ask.instruction), str(ask.query))
        digest = hashlib.sha256()
        for part in (self.model, self.revision, *how, text):
            raw = part.encode()
            # With its length in front, no part can pass for the end of the one before.
            digest.update(len(raw).to_bytes(8, "little") + raw)
        return digest.digest()


class EmbeddingCache:
    """Vectors by key.  Close it, or use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            SettingInvalid: it cannot be opened, or is something else.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=30.0)
            # Readers do not wait for a writer; what a crash loses can be computed again.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise SettingInvalid(
                f"the cache {path} cannot be used: {error}; name another file or remove it"
            ) from error

    def __enter__(self) -> "EmbeddingCache":
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT count(*) FROM embeddings").fetchone()
        return int(count)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """Return the vectors that are there, by key."""
        found: dict[bytes, Vector] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            some = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            rows = self._database.execute(
                f"SELECT key, vector FROM embeddings WHERE key IN ({marks})",  # noqa: S608
                some,
            )
            found.update((key, np.frombuffer(raw, dtype="<f4")) for key, raw in rows)
        return found

    def put(self, vectors: Iterable[tuple[bytes, Vector]]) -> None:
        """Keep the vectors, all or none.  One that is already there is left alone."""
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors]
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)
