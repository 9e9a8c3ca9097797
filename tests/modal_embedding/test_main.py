import json
from pathlib import Path

import numpy as np
import pytest

from modal_embedding.client.files import read_embeddings
from tests.support.modal_engine import stand_in_engine, vector_of
from tests.support.modal_front import fronted_engine
from tests.support.modal_programs import run

MAIN = "modal_embedding.main"


async def test_lines_of_stdin_become_json_lines() -> None:
    """In order, ready for a pipe; everything else is on stderr."""
    async with stand_in_engine() as engine:
        environ = {"EMBEDDING_URL": engine.url, "MODEL_NAME": "tiny"}
        ended = await run(MAIN, "embed", stdin=b"b\n\na\nb\n", environ=environ)

    assert ended.code == 0, ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["b", "a", "b"]
    assert np.allclose(rows[1]["embedding"], vector_of("a"), atol=1e-6)


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "npy"])
async def test_files_become_a_file(tmp_path: Path, ending: str) -> None:
    """Text and JSON lines, one after the other."""
    (tmp_path / "one.txt").write_text("a\nb\n")
    (tmp_path / "two.jsonl").write_text('{"text": "c"}\n')
    output = tmp_path / f"out.{ending}"
    async with stand_in_engine() as engine:
        ended = await run(
            *(MAIN, "embed", str(tmp_path / "one.txt"), str(tmp_path / "two.jsonl")),
            *("-o", str(output), "--url", engine.url, "--model", "tiny"),
        )

    assert ended.code == 0, ended.stderr
    expected = np.stack([vector_of(text) for text in "abc"])
    assert np.allclose(read_embeddings(output).vectors, expected, atol=1e-6)


async def test_the_second_run_asks_for_what_is_new(tmp_path: Path) -> None:
    """The cache is a file that outlives the program."""
    async with stand_in_engine() as engine:
        options = ("--url", engine.url, "--model", "tiny", "--cache", str(tmp_path / "c.sqlite"))
        await run(MAIN, "embed", *options, stdin=b"a\nb\n")
        ended = await run(MAIN, "embed", *options, stdin=b"a\nb\nc\n")

    assert [body["input"] for body in engine.requests] == [["a", "b"], ["c"]]
    assert '"from_cache": 2' in ended.stderr


async def test_a_search_finds_the_most_similar(tmp_path: Path) -> None:
    """The query is cut to the size of the vectors, and put as a query."""
    output = str(tmp_path / "out.parquet")
    async with fronted_engine(key="k", query_template="{text}{instruction}") as (url, engine):
        environ = {"EMBEDDING_URL": url, "MODEL_NAME": "tiny", "EMBEDDING_API_KEY": "k"}
        texts = b"a cat\na dog\na bird\n"
        await run(MAIN, "embed", "-o", output, "--dimensions", "8", stdin=texts, environ=environ)
        ended = await run(
            MAIN, "search", output, "a ", "--instruction", "dog", "-n", "2", environ=environ
        )

    assert ended.code == 0, ended.stderr
    assert ended.stdout.splitlines()[0] == "1.0000\ta dog"
    assert len(ended.stdout.splitlines()) == 2
    assert engine.requests[-1]["input"] == ["a dog"]


async def test_a_cold_start_is_told_as_a_timeline() -> None:
    """The container's stages, and what the caller saw."""
    async with fronted_engine() as (url, _):
        ended = await run(MAIN, "coldstart", "--url", url, "--model", "tiny")

    assert ended.code == 0, ended.stderr
    assert [line[:16].strip() for line in ended.stdout.splitlines()] == [
        "snapshot made",
        "snapshot made",
        "first embedding",
        "caller",
        "caller",
    ]


async def test_no_texts_are_a_failure() -> None:
    """An empty file is more likely a mistake upstream than a wish."""
    async with stand_in_engine() as engine:
        ended = await run(MAIN, "embed", "--url", engine.url)

    assert (ended.code, ended.stdout) == (1, "")
    assert "there are no texts" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "message"),
    [
        (("embed", "nowhere.txt"), b"", 2, "nowhere.txt cannot be read: No such file"),
        (("embed", "-o", "x.csv"), b"a", 2, "x.csv has no known ending"),
        (("embed", "--jsonl"), b"text\n", 2, "stdin, line 1 is not a JSON object"),
        (("embed", "--url", "http://127.0.0.1:1", "--attempts", "1"), b"a", 1, "cannot be reached"),
        (("embed", "--url", "nonsense"), b"a", 2, "no URL"),
        (("embed", "--concurrency", "0"), b"a", 2, "--concurrency"),
        (("embed",), b"a", 2, "Modal does not know us"),
        (("coldstart",), b"", 2, "modal token new"),
        (("search", "nowhere.npy", "a"), b"", 2, "nowhere.npy cannot be read"),
    ],
)
async def test_what_goes_wrong_is_one_line(
    arguments: tuple[str, ...], stdin: bytes, code: int, message: str
) -> None:
    """2 where the caller must act, 1 where the service must; never a traceback."""
    ended = await run(MAIN, *arguments, stdin=stdin, environ={"MODAL_CONFIG_PATH": "/nonexistent"})

    assert ended.code == code
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_wrong_key_is_explained() -> None:
    """With the variable to set."""
    async with fronted_engine(key="right") as (url, _):
        ended = await run(
            MAIN, "embed", "--url", url, stdin=b"a", environ={"EMBEDDING_API_KEY": "wrong"}
        )

    assert ended.code == 2
    assert "refused our credentials (401): set EMBEDDING_API_KEY" in ended.stderr


async def test_half_a_token_of_modals_edge_is_explained() -> None:
    """Its two parts belong together."""
    ended = await run(
        MAIN, "embed", "--url", "http://127.0.0.1:1", stdin=b"a", environ={"MODAL_KEY": "wk"}
    )

    assert ended.code == 2
    assert "set both or none" in ended.stderr


async def test_a_text_that_is_too_long_is_named_by_its_line() -> None:
    """Its place among all texts, not in the batch that it travelled in."""
    texts = b"a\n" + b"word " * 150 + b"\nb\n"
    async with fronted_engine() as (url, _):
        ended = await run(MAIN, "embed", "--url", url, "--model", "tiny", stdin=texts)

    assert ended.code == 1
    assert "text 1 has 150 tokens and the model reads 100" in ended.stderr
