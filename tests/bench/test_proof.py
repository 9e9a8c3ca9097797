"""Engines that are not what they are said to be are refused."""

from importlib import resources

import pytest

from bench.proof import (
    EngineFacts,
    Expected,
    read_prefix_caching,
    read_segments,
    read_version,
    refutation,
)

ENGINE = EngineFacts(url="http://e:1", version="0.19.0", prefix_caching=True)


@pytest.mark.parametrize(
    ("expected", "segments", "reason"),
    [
        (Expected(version="0.20.0"), None, "has version 0.19.0, not 0.20.0"),
        (Expected(prefix_caching=False), None, "has prefix caching True, not False"),
        (Expected(kvcached=True), [], "no KVCached segment exists"),
        (Expected(kvcached=True), None, "no KVCached segment exists"),
        (Expected(kvcached=False), ["kvcached_vllm_7"], "this is no plain vLLM"),
    ],
)
def test_an_engine_that_is_something_else_is_refused(
    expected: Expected, segments: list[str] | None, reason: str
) -> None:
    """The reason has what was found and what was said."""
    assert reason in (refutation(expected, [ENGINE], segments) or "")


def test_an_engine_that_is_what_it_should_be_is_measured() -> None:
    """All three proofs given."""
    expected = Expected(version="0.19.0", prefix_caching=True, kvcached=True)

    assert refutation(expected, [ENGINE], ["kvcached_vllm_7"]) is None


def test_each_engine_needs_a_segment_of_its_own() -> None:
    """One patched engine does not vouch for the other."""
    why = refutation(Expected(kvcached=True), [ENGINE, ENGINE], ["kvcached_vllm_7"])

    assert why == "1 KVCached segments for 2 engines"


def test_engines_that_nobody_named_prove_nothing() -> None:
    """A URL of a load balancer does not say what is behind it."""
    assert "give their URLs" in (refutation(Expected(version="1"), [], None) or "")


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
    assert read_segments(b'[{"name": "a"}, "b"]') == ["a", "b"]
    assert read_segments(b'{"a": {}}') == ["a"]
    assert read_segments(b"no") is None
