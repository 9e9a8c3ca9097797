"""Embeddings that were paid for once, kept in a SQLite file.

A vector is found again by the content that decided it: model, revision, dimensions and the whole
prompt.  Several processes may share a file.  Where it would grow beyond its bound, the vectors that
were not asked for the longest go first.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modal_embedding.messages.protocol import EmbedOptions
from modal_embedding.messages.vectors import Vector
from servekit.errors.tree import SettingInvalid

# SQLite's limit on variables of one statement has been at least this since 2000.
_KEYS_PER_QUERY = 900

# About 270,000 vectors of 3840 numbers.
DEFAULT_MAX_BYTES = 4 * 1024**3

# Of the rows, when there are too many: one in so many goes at a time.
_EVICTED_SHARE = 10

# `used` counts the calls of `put` and `get`: the larger, the later the vector was last asked for.
# Rows stand in the order in which they came, so that those that go free whole pages.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, vector BLOB NOT NULL, used INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_use ON vectors (used);
CREATE TABLE IF NOT EXISTS total (one INTEGER PRIMARY KEY CHECK (one = 1), bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO total VALUES (1, 0);
CREATE TRIGGER IF NOT EXISTS more AFTER INSERT ON vectors BEGIN
    UPDATE total SET bytes = bytes + length(new.key) + length(new.vector);
END;
CREATE TRIGGER IF NOT EXISTS less AFTER DELETE ON vectors BEGIN
    UPDATE total SET bytes = bytes - length(old.key) - length(old.vector);
END;
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What, besides its text, decides a vector."""

    model: str
    revision: str = ""
    ask: EmbedOptions = EmbedOptions()  # noqa: RUF009  # frozen

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

    def __init__(self, path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Open the file, or make it.  Keys and vectors in it stay below *max_bytes*.

        Raises:
            SettingInvalid: it cannot be opened, or is something else.
        """
        self._max_bytes = max_bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=30.0)
            # Readers do not wait for a writer; what a crash loses can be computed again.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise SettingInvalid(
                f"the cache {path} cannot be used: {error}; name another file or remove it"
            ) from error

    def __enter__(self) -> "EmbeddingCache":
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def __len__(self) -> int:
        return self._number("SELECT count(*) FROM vectors")

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """Return the vectors that are there, by key."""
        found: dict[bytes, Vector] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            some = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            rows = self._database.execute(
                f"SELECT key, vector FROM vectors WHERE key IN ({marks})",  # noqa: S608
                some,
            )
            found.update((key, np.frombuffer(raw, dtype="<f4")) for key, raw in rows)
        self._mark_used(found)
        return found

    def put(self, vectors: Iterable[tuple[bytes, Vector]]) -> None:
        """Keep the vectors, all or none.  One that is already there is left alone."""
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors]
        with self._database:
            now = self._next_use()
            self._database.executemany(
                "INSERT OR IGNORE INTO vectors (key, vector, used) VALUES (?, ?, ?)",
                [(*row, now) for row in rows],
            )
            self._evict()

    def _mark_used(self, keys: Iterable[bytes]) -> None:
        with self._database:
            now = self._next_use()
            self._database.executemany(
                "UPDATE vectors SET used = ? WHERE key = ?", [(now, key) for key in keys]
            )

    def _evict(self) -> None:
        while self._number("SELECT bytes FROM total") > self._max_bytes:
            some = len(self) // _EVICTED_SHARE + 1
            self._database.execute(
                "DELETE FROM vectors"
                " WHERE id IN (SELECT id FROM vectors ORDER BY used, id LIMIT ?)",
                (some,),
            )

    def _next_use(self) -> int:
        return self._number("SELECT coalesce(max(used), 0) + 1 FROM vectors")

    def _number(self, query: str) -> int:
        (value,) = self._database.execute(query).fetchone()
        return int(value)
