"""Texts in, vectors out: text, JSON lines, Parquet and npy.  Reads and writes files."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from modal_embedding.messages.vectors import Vectors, as_vectors, shortest
from servekit.errors.tree import SettingInvalid


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors and what they stand for.

    Attributes:
        texts: one per row; empty where the file does not hold them (npy).
    """

    texts: tuple[str, ...]
    vectors: Vectors


T = TypeVar("T")


class _Row(msgspec.Struct, frozen=True):
    text: str
    embedding: list[float]


class _TextRow(msgspec.Struct, frozen=True):
    text: str


_encode = msgspec.json.Encoder().encode


def read_texts(lines: BinaryIO, name: str, *, json_lines: bool) -> list[str]:
    """Return one text per line that is not blank: the line, or the field `text` of its JSON.

    Raises:
        SettingInvalid: a line is not UTF-8, or is no object with a text; names the line.
    """
    return [
        _text(line, f"{name}, line {number}", json_lines)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _text(line: bytes, where: str, json_lines: bool) -> str:
    try:
        if json_lines:
            return msgspec.json.decode(line, type=_TextRow).text
        return line.decode("utf-8-sig").rstrip("\r\n")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        kind = 'a JSON object with "text"' if json_lines else "UTF-8"
        raise SettingInvalid(f"{where} is not {kind}: {error}") from error


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write a .jsonl, .parquet or .npy file; it appears whole or not at all.

    npy holds the vectors alone, in the order of the texts.

    Raises:
        SettingInvalid: no format has this ending, or the file cannot be written.
    """
    write = _by_ending(path, _WRITERS)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            write(file, embeddings)
        partial.replace(path)
    except OSError as error:
        raise SettingInvalid(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def check_ending(path: Path) -> None:
    """Raise SettingInvalid unless *path* is of a format that can be written."""
    _by_ending(path, _WRITERS)


def read_embeddings(path: Path) -> Embeddings:
    """Return what `write_embeddings` wrote.

    Raises:
        SettingInvalid: there is no such file, or it is something else.
    """
    read = _by_ending(path, _READERS)
    try:
        return read(path)
    except (OSError, ValueError, KeyError, msgspec.DecodeError, pa.ArrowException) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingInvalid(f"{path} cannot be read as embeddings: {why}") from error


def jsonl_rows(embeddings: Embeddings) -> Iterator[bytes]:
    """Yield `{"text": …, "embedding": […]}` and a newline per text."""
    for text, vector in zip(embeddings.texts, embeddings.vectors, strict=True):
        yield _encode(_Row(text, shortest(vector).tolist())) + b"\n"


def _write_jsonl(file: BinaryIO, embeddings: Embeddings) -> None:
    file.writelines(jsonl_rows(embeddings))


def _write_parquet(file: BinaryIO, embeddings: Embeddings) -> None:
    flat = pa.array(np.ascontiguousarray(embeddings.vectors).reshape(-1))
    width = max(1, embeddings.vectors.shape[1])
    vectors = pa.FixedSizeListArray.from_arrays(flat, width)
    texts = pa.array(embeddings.texts, pa.string())
    table = pa.Table.from_arrays([texts, vectors], names=["text", "embedding"])
    pq.write_table(table, file)


def _write_npy(file: BinaryIO, embeddings: Embeddings) -> None:
    np.save(file, embeddings.vectors, allow_pickle=False)


def _read_jsonl(path: Path) -> Embeddings:
    with path.open("rb") as lines:
        rows = [msgspec.json.decode(line, type=_Row) for line in lines if line.strip()]
    return Embeddings(tuple(row.text for row in rows), as_vectors([row.embedding for row in rows]))


def _read_parquet(path: Path) -> Embeddings:
    table = pq.read_table(path, columns=["text", "embedding"])
    column = table.column("embedding").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    vectors = flat.astype(np.float32).reshape(table.num_rows, -1 if table.num_rows else 0)
    return Embeddings(tuple(table.column("text").to_pylist()), vectors)


def _read_npy(path: Path) -> Embeddings:
    vectors = np.load(path, allow_pickle=False)
    if vectors.ndim != 2:
        raise ValueError(f"it has {vectors.ndim} axes, where texts and dimensions make two")
    return Embeddings((), vectors.astype(np.float32))


_WRITERS: dict[str, Callable[[BinaryIO, Embeddings], None]] = {
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
    ".npy": _write_npy,
}
_READERS: dict[str, Callable[[Path], Embeddings]] = {
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".npy": _read_npy,
}


def _by_ending(path: Path, table: dict[str, T]) -> T:
    found = table.get(path.suffix.lower())
    if found is None:
        raise SettingInvalid(f"{path} has no known ending; use {', '.join(table)}")
    return found


def labels(embeddings: Embeddings) -> Sequence[str]:
    """Return a name for each row: its text, or its number."""
    return embeddings.texts or [f"row {row}" for row in range(len(embeddings.vectors))]
