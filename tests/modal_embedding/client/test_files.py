import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_embedding.client.files import (
    Embeddings,
    labels,
    read_embeddings,
    read_texts,
    write_embeddings,
)
from servekit.errors.tree import SettingInvalid

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@given(texts=TEXTS, size=st.integers(1, 3))
def test_texts_and_vectors_come_back(
    tmp_path_factory: pytest.TempPathFactory, ending: str, texts: list[str], size: int
) -> None:
    """Bit by bit, in order, whatever the texts hold."""
    vectors = np.random.default_rng(len(texts)).normal(size=(len(texts), size)).astype("f4")
    if not texts:
        vectors = np.zeros((0, 0), "f4")
    path = tmp_path_factory.mktemp("files") / f"out.{ending}"

    write_embeddings(path, Embeddings(tuple(texts), vectors))

    found = read_embeddings(path)
    assert found.texts == tuple(texts)
    assert len(found.vectors) == len(texts)
    assert found.vectors.tobytes() == vectors.tobytes()


def test_npy_holds_the_vectors_alone(tmp_path: Path) -> None:
    """Rows are called by their number then."""
    vectors = np.arange(6, dtype="f4").reshape(3, 2)

    write_embeddings(tmp_path / "o.npy", Embeddings(("a", "b", "c"), vectors))

    found = read_embeddings(tmp_path / "o.npy")
    assert np.array_equal(found.vectors, vectors)
    assert np.array_equal(np.load(tmp_path / "o.npy"), vectors)
    assert labels(found) == ["row 0", "row 1", "row 2"]


def test_lines_are_texts_and_blank_ones_are_none() -> None:
    """Ends of line, also Windows', and a byte order mark are not part of a text."""
    lines = io.BytesIO("\ufeffone\r\n\n  \n two \nthree".encode())

    assert read_texts(lines, "f", json_lines=False) == ["one", " two ", "three"]


def test_json_lines_may_hold_more_than_the_text() -> None:
    """Other fields are not ours."""
    lines = io.BytesIO(b'{"text": "a\\nb", "id": 3}\n')

    assert read_texts(lines, "f", json_lines=True) == ["a\nb"]


@pytest.mark.parametrize("line", [b"[]", b'{"text": 3}', b"{", b'{"txt": "a"}'])
def test_a_line_that_holds_no_text_is_named(line: bytes) -> None:
    """File and number, so that it can be found."""
    with pytest.raises(SettingInvalid, match=r"f\.jsonl, line 2 is not"):
        read_texts(io.BytesIO(b'{"text": "ok"}\n' + line), "f.jsonl", json_lines=True)


def test_bytes_that_are_no_text_are_named() -> None:
    """As for JSON lines."""
    with pytest.raises(SettingInvalid, match="line 1 is not UTF-8"):
        read_texts(io.BytesIO(b"\xff\xfe\n"), "f", json_lines=False)


def test_an_unknown_ending_is_refused_with_those_known(tmp_path: Path) -> None:
    """Before anything is embedded."""
    with pytest.raises(SettingInvalid, match=r"\.jsonl, \.parquet, \.npy"):
        write_embeddings(tmp_path / "o.csv", Embeddings((), np.zeros((0, 0), "f4")))


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x.npy"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    """One line says which."""
    (tmp_path / name).write_bytes(b"\x93NUMPY or not")

    with pytest.raises(SettingInvalid, match=name):
        read_embeddings(tmp_path / name)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    """A file appears whole or not at all."""
    path = tmp_path / "o.jsonl"
    path.write_text("kept")

    with pytest.raises(ValueError, match="shorter"):
        write_embeddings(path, Embeddings(("a", "b"), np.zeros((1, 1), "f4")))

    assert path.read_text() == "kept"
    assert [entry.name for entry in tmp_path.iterdir()] == ["o.jsonl"]
