"""What a text names as weights."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import WeightsMissing
from servekit.weights.source import (
    BucketFolder,
    HubRepo,
    LocalArchive,
    LocalFolder,
    Source,
    Tarball,
    cache_name,
    described,
    parse_source,
    readable_name,
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
        ("s3://bucket/models/llama/", BucketFolder("s3", "bucket", "models/llama/")),
        ("gs://bucket", BucketFolder("gs", "bucket", "")),
        ("gs://bucket/m/model.tar.zst", Tarball("gs://bucket/m/model.tar.zst")),
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
        "s3://",
        "gs:///key",
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
    """The name depends on the whole URL but for its signature."""
    names = {cache_name(Tarball(f"https://host/model.tar?v={text}")) for text in (one, other)}

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


@pytest.mark.parametrize(
    "url",
    [
        "https://user:canary@host/m.tar?X-Amz-Signature=canary",
        "https://canary@host:8443/m.tar?sig=canary&se=2026#sha256=canary",
        "ftp://user:canary@host/m.tar?sig=canary",
        "https://user:canary@:80/m.tar",
        "https://user:canary@host:port/m.tar",
        "s3://user:canary@/m",
        "hf://user:canary@host/x/y",
    ],
)
def test_a_source_is_shown_without_its_secrets(url: str) -> None:
    """Neither as a value nor in an error."""
    try:
        source = _parse(url)
    except WeightsMissing as error:
        assert "canary" not in str(error)
    else:
        assert "canary" not in repr(source) + described(source) + cache_name(source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "https://host/m.tar?X-Amz-Signature=a&X-Amz-Date=1",
            "https://host/m.tar?X-Amz-Signature=b",
        ),
        ("https://host/m.tar?sv=1&se=2&sig=a", "https://host/m.tar?sv=1&se=3&sig=b"),
        ("https://a:b@host/m.tar", "https://host/m.tar"),
        (f"https://host/m.tar?v=1#sha256={SHA}", f"https://mirror/n.tar#sha256={SHA}"),
    ],
)
def test_the_identity_is_the_content(one: str, other: str) -> None:
    """A renewed signature, another password, a mirror of the same sha256: one copy."""
    assert cache_name(_parse(one)) == cache_name(_parse(other))  # type: ignore[arg-type]


@pytest.mark.parametrize("query", ["v=1", "version=2&sig=a", "generation=3"])
def test_another_query_is_another_model(query: str) -> None:
    """What is no signature tells models apart."""
    assert cache_name(Tarball(f"https://host/m.tar?{query}")) != cache_name(
        Tarball("https://host/m.tar")
    )
