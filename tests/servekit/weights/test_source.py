"""What a text names as weights."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import WeightsMissing
from servekit.weights.source import (
    HubRepo,
    LocalArchive,
    LocalFolder,
    Source,
    Tarball,
    cache_name,
    parse_source,
    readable_name,
    shown,
)

SHA = "a" * 64


def _parse(text: str) -> Source:
    return parse_source(text, exists=lambda _: False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/m/model.tar", Tarball("https://host/m/model.tar")),
        ("HTTP://host/m.tar?sig=x", Tarball("HTTP://host/m.tar?sig=x")),
        (f"https://host/m.tar#sha256={SHA.upper()}", Tarball("https://host/m.tar", SHA)),
        (" /models/llama \n", LocalFolder(Path("/models/llama"))),
        ("./llama", LocalFolder(Path("llama"))),
        ("file:///models/my%20llama", LocalFolder(Path("/models/my llama"))),
        ("/models/model.tar", LocalArchive(Path("/models/model.tar"))),
        ("out/model.tar.gz", LocalArchive(Path("out/model.tar.gz"))),
        ("Qwen/Qwen3-8B", HubRepo("Qwen/Qwen3-8B", "main")),
        ("Qwen/Qwen3-8B@v1.0", HubRepo("Qwen/Qwen3-8B", "v1.0")),
        ("hf://Qwen/Qwen3-8B@abc", HubRepo("Qwen/Qwen3-8B", "abc")),
        ("llama", LocalFolder(Path("llama"))),
        ("a/b/c", LocalFolder(Path("a/b/c"))),
    ],
)
def test_a_text_names_one_kind_of_source(text: str, expected: Source) -> None:
    """URLs, paths and hub ids are told apart by how they are written."""
    assert _parse(text) == expected


def test_a_folder_that_exists_is_not_a_hub_id() -> None:
    """`org/name` that lies here is what was meant."""
    assert parse_source("Qwen/Qwen3-8B", exists=lambda _: True) == LocalFolder(
        Path("Qwen/Qwen3-8B")
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "s3://bucket/model.tar",
        "ftp://host/m.tar",
        "https:///m.tar",
        "hf://name",
        "https://host/m.tar#sha256=abc",
        "https://host/m.tar#part",
    ],
)
def test_what_cannot_be_fetched_is_refused_with_a_remedy(text: str) -> None:
    """The message says what is understood."""
    with pytest.raises(WeightsMissing):
        _parse(text)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/default/Qwen/Qwen3-VL-8B-Instruct/model.tar", "Qwen3-VL-8B-Instruct"),
        ("https://host/pythia-70m.tar", "pythia-70m"),
        ("https://host/pythia-70m.tar.gz?sig=1", "pythia-70m"),
        ("https://host/model.tar", "model"),
        ("https://host/", "model"),
        ("https://host/..%2F..%2Fetc/model.tar", "etc"),
        ("https://host/a%20b%00c.tar", "a-b-c"),
    ],
)
def test_the_readable_name_is_that_of_cog_vllm(url: str, name: str) -> None:
    """People find the copy under the name they knew, and no name leads anywhere else."""
    assert readable_name(Tarball(url)) == name


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_urls_never_share_a_copy(one: str, other: str) -> None:
    """The name depends on the whole URL: what differs in a query is another model."""
    names = {cache_name(Tarball(f"https://host/model.tar?{text}")) for text in (one, other)}

    assert len(names) == len({one, other})


@given(st.text())
def test_a_name_is_one_folder(path: str) -> None:
    """Whatever a URL holds, its name is a plain file name of bounded length."""
    name = cache_name(Tarball(f"https://host/{path}"))

    assert Path(name).name == name
    assert not name.startswith(".")
    assert len(name) < 120


def test_a_local_archive_is_known_by_its_content_date(tmp_path: Path) -> None:
    """An archive that was written anew is another model."""
    archive = tmp_path / "model.tar"
    archive.write_bytes(b"1")
    before = cache_name(LocalArchive(archive))
    archive.write_bytes(b"22")

    assert cache_name(LocalArchive(archive)) != before


def test_a_url_is_shown_without_its_secrets() -> None:
    """User, password and signature stay out of logs and messages."""
    assert shown("https://user:pass@host:8443/m.tar?sig=secret") == "https://host:8443/m.tar"
