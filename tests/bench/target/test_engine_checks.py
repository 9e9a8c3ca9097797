"""Engines that are not what they are said to be are refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import resources

import pytest

from bench.target.engine_checks import (
    EngineFacts,
    ExpectedEngine,
    KvcachedEvidence,
    KvcachedSource,
    kvcached_arms,
    read_active,
    read_follows_load,
    read_prefix_caching,
    read_segments,
    read_version,
    refutation,
)

ENGINE = EngineFacts(url="http://e:1", version="0.19.0", prefix_caching=True)


NOTHING = KvcachedEvidence()
NONE = KvcachedEvidence(segments=())
SEGMENT = KvcachedEvidence(segments=("kvcached_vllm_7",))
UNPROVEN = KvcachedEvidence(segments=("kvcached_vllm_7",), proven=())
PROVEN = KvcachedEvidence(segments=("kvcached_vllm_7",), proven=("kvcached_vllm_7",))


@pytest.mark.parametrize(
    ("expected", "evidence", "reason"),
    [
        (ExpectedEngine(version="0.20.0"), NOTHING, "has version 0.19.0, not 0.20.0"),
        (ExpectedEngine(prefix_caching=False), NOTHING, "has prefix caching True, not False"),
        (ExpectedEngine(kvcached=True), NONE, "no KVCached segments"),
        (ExpectedEngine(kvcached=True), NOTHING, "nothing says that GPU memory follows the load"),
        # KVCached 0.1.5 in vLLM 0.26 had a segment.
        (ExpectedEngine(kvcached=True), SEGMENT, "a segment alone proves nothing"),
        (ExpectedEngine(kvcached=True), UNPROVEN, "follows the load in 0 of 1 engines"),
        (ExpectedEngine(kvcached=False), NOTHING, "cannot list KVCached segments"),
        (ExpectedEngine(kvcached=False), SEGMENT, "vLLM is patched"),
        (ExpectedEngine(kvcached=False), UNPROVEN, "vLLM is patched"),
    ],
)
def test_an_engine_that_is_something_else_is_refused(
    expected: ExpectedEngine, evidence: KvcachedEvidence, reason: str
) -> None:
    """The reason has what was found and what was said."""
    assert reason in (refutation(expected, [ENGINE], evidence) or "")


def test_an_engine_that_is_what_it_should_be_is_measured() -> None:
    """All three proofs given; without KVCached, nothing of it anywhere."""
    expected = ExpectedEngine(version="0.19.0", prefix_caching=True, kvcached=True)

    assert refutation(expected, [ENGINE], PROVEN) is None
    assert refutation(ExpectedEngine(kvcached=False), [ENGINE], NONE) is None


def test_each_engine_is_proven_by_itself() -> None:
    """One engine whose memory follows its load does not vouch for the other, nor twice."""
    why = refutation(ExpectedEngine(kvcached=True), [ENGINE, ENGINE], PROVEN)

    assert why == "GPU memory follows the load in 1 of 2 engines; see their logs"
    twice = KvcachedEvidence(segments=("a", "b"), proven=("a", "a"))
    assert refutation(ExpectedEngine(kvcached=True), [ENGINE, ENGINE], twice) == why


def test_engines_that_nobody_named_prove_nothing() -> None:
    """A URL of a load balancer does not say what is behind it."""
    assert "set --engines" in (refutation(ExpectedEngine(version="1"), [], NOTHING) or "")


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


async def test_each_engine_speaks_for_itself() -> None:
    """With metrics given, every engine is asked, and one that is silent leaves it open."""
    follows = b"kvcached_memory_follows_load 1\n"
    said = iter([b'kvcached_active{ipc="a"} 1\n' + follows, b'kvcached_active{ipc="b"} 0\n'])
    async with exposing(said) as url:
        witness = KvcachedSource(metrics=(url, url))
        assert await witness.evidence() == KvcachedEvidence(segments=("a",), proven=None)

    assert await witness.evidence() == NOTHING


async def test_engines_of_which_one_is_static_are_counted() -> None:
    """Both have segments; the memory of one follows its load."""
    said = iter(
        [
            b'kvcached_active{ipc="a"} 1\nkvcached_memory_follows_load{ipc="a"} 1\n',
            b'kvcached_active{ipc="b"} 1\nkvcached_memory_follows_load{ipc="b"} 0\n',
        ]
    )
    async with exposing(said) as url:
        found = await KvcachedSource(metrics=(url, url)).evidence()

    assert found == KvcachedEvidence(segments=("a", "b"), proven=("a",))


@pytest.mark.parametrize(
    ("text", "follows"),
    [
        ('kvcached_memory_follows_load{ipc="a"} 1\n', True),
        ('kvcached_memory_follows_load{ipc="a"} 0\n', False),
        ('kvcached_active{ipc="a"} 1\n', None),
        ("kvcached_memory_follows_load{ 1", None),
    ],
)
def test_a_program_that_does_not_say_proves_nothing(text: str, follows: bool | None) -> None:
    """Versions before this metric looked at the segment only."""
    assert read_follows_load(text) is follows


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
