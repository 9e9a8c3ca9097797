"""Engines that are not what they are said to be are refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import resources

import pytest

from bench.target.engine_checks import (
    EngineFacts,
    ExpectedEngine,
    KvcachedSource,
    kvcached_arms,
    read_active,
    read_prefix_caching,
    read_segments,
    read_version,
    refutation,
)

ENGINE = EngineFacts(url="http://e:1", version="0.19.0", prefix_caching=True)


@pytest.mark.parametrize(
    ("expected", "segments", "reason"),
    [
        (ExpectedEngine(version="0.20.0"), None, "has version 0.19.0, not 0.20.0"),
        (ExpectedEngine(prefix_caching=False), None, "has prefix caching True, not False"),
        (ExpectedEngine(kvcached=True), [], "no KVCached segments"),
        (ExpectedEngine(kvcached=True), None, "cannot list KVCached segments"),
        (ExpectedEngine(kvcached=False), None, "cannot list KVCached segments"),
        (ExpectedEngine(kvcached=False), ["kvcached_vllm_7"], "vLLM is patched"),
    ],
)
def test_an_engine_that_is_something_else_is_refused(
    expected: ExpectedEngine, segments: list[str] | None, reason: str
) -> None:
    """The reason has what was found and what was said."""
    assert reason in (refutation(expected, [ENGINE], segments) or "")


def test_an_engine_that_is_what_it_should_be_is_measured() -> None:
    """All three proofs given."""
    expected = ExpectedEngine(version="0.19.0", prefix_caching=True, kvcached=True)

    assert refutation(expected, [ENGINE], ["kvcached_vllm_7"]) is None


def test_each_engine_needs_a_segment_of_its_own() -> None:
    """One patched engine does not vouch for the other."""
    why = refutation(ExpectedEngine(kvcached=True), [ENGINE, ENGINE], ["kvcached_vllm_7"])

    assert why == "1 KVCached segments for 2 engines"
    twice = ["kvcached_vllm_7", "kvcached_vllm_7"]
    assert refutation(ExpectedEngine(kvcached=True), [ENGINE, ENGINE], twice) == why


def test_engines_that_nobody_named_prove_nothing() -> None:
    """A URL of a load balancer does not say what is behind it."""
    assert "set --engines" in (refutation(ExpectedEngine(version="1"), [], None) or "")


@pytest.mark.parametrize(
    "golden", ["metrics_v0.32.0_cpu_generate.txt", "metrics_v0.26.0_h200_generate.txt"]
)
def test_real_engines_say_whether_they_cache_prefixes(golden: str) -> None:
    """The captures of each vLLM release are understood."""
    text = (resources.files("tests.golden") / "vllm" / golden).read_text()

    assert read_prefix_caching(text) is True


@pytest.mark.parametrize("text", ["", "vllm:cache_config_info{ 1", "other 1\n"])
def test_an_engine_that_does_not_say_is_unknown(text: str) -> None:
    """Unknown is not False."""
    assert read_prefix_caching(text) is None


def test_versions_and_segments_are_read() -> None:
    """As vLLM and kvctl write them; what is neither is unknown."""
    assert read_version(b'{"version": "0.19.0"}') == "0.19.0"
    assert read_version(b"<html>") is None
    listed = b'[{"ipc": "kvcached_vllm_7", "limit_bytes": 30, "used_bytes": 2}]'
    assert read_segments(listed) == ["kvcached_vllm_7"]
    assert read_segments(b"[]") == []


@pytest.mark.parametrize("listed", [b"no", b'{"a": {}}', b'["a"]', b'[{"name": "a"}]', b"[null]"])
def test_a_list_that_is_not_kvctls_proves_nothing(listed: bytes) -> None:
    """Neither that there are segments nor that there are none."""
    assert read_segments(listed) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('kvcached_active{ipc="mine"} 1\n', "mine"),
        ('kvcached_active{ipc="mine"} 0\n', ""),
        ("kvcached_used_bytes 7\n", None),
        ("", None),
    ],
)
def test_an_engines_own_program_names_its_segment(text: str, name: str | None) -> None:
    """As kvcached_engine exposes it; silence is not absence."""
    assert read_active(text) == name


async def test_each_engine_is_asked_for_its_own_segment() -> None:
    """With metrics given, every engine speaks for itself, and one that is silent leaves it open."""
    said = iter([b'kvcached_active{ipc="a"} 1\n', b'kvcached_active{ipc="b"} 0\n'])
    async with exposing(said) as url:
        witness = KvcachedSource(metrics=(url, url))
        assert await witness.segments() == ["a"]

    assert await witness.segments() is None


@asynccontextmanager
async def exposing(bodies: Iterator[bytes]) -> AsyncIterator[str]:
    """Give the URL of a server that answers each request with the next of *bodies*."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = next(bodies)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("which", "must"),
    [
        (None, [None, None]),
        ("candidate", [None, True]),
        ("both", [True, True]),
        ("none", [False, False]),
    ],
)
def test_who_must_have_kvcached(which: str | None, must: list[bool | None]) -> None:
    """The baseline of a comparison may share its host with the candidate's segments."""
    assert kvcached_arms(which, 2) == must


def test_in_a_2x2_the_engines_of_the_second_row_are_the_candidates() -> None:
    """Engine A with both balancers, then engine B with both."""
    assert kvcached_arms("candidate", 4) == [None, None, True, True]
