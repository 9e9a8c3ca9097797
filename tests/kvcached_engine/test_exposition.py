"""The usage as metrics."""

from prometheus_client.parser import text_string_to_metric_families

from kvcached_engine.exposition import exposition
from kvcached_engine.memory_proof import MemoryCourse
from kvcached_engine.segment import SegmentUsage


def samples(text: str) -> dict[str, float]:
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_an_account_becomes_gauges() -> None:
    """In bytes, and as another's parser reads them."""
    text = exposition("mine", SegmentUsage(limit=300, used=200, preallocated=100), None)

    assert samples(text) == {
        "kvcached_active": 1,
        "kvcached_memory_follows_load": 0,
        "kvcached_limit_bytes": 300,
        "kvcached_used_bytes": 200,
        "kvcached_preallocated_bytes": 100,
    }
    assert 'kvcached_used_bytes{ipc="mine"} 200' in text


def test_without_an_account_nothing_is_zero() -> None:
    """Unknown is not zero; that KVCached has no part is said by itself."""
    assert samples(exposition("mine", None, None)) == {
        "kvcached_active": 0,
        "kvcached_memory_follows_load": 0,
    }


def test_a_course_of_the_memory_is_shown_with_its_verdict() -> None:
    """The four readings are the evidence; the gauge is what they prove."""
    course = MemoryCourse(
        before=5, idle=20, loaded=60, released=25, capacity=100, load_bytes=40.0, preallocated=0
    )

    text = exposition("mine", SegmentUsage(limit=300, used=200, preallocated=100), course)

    assert 'kvcached_memory_follows_load{ipc="mine"} 1' in text
    assert 'kvcached_proof_gpu_memory_bytes{ipc="mine",when="loaded"} 60' in text
