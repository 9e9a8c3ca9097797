"""The usage as metrics."""

from prometheus_client.parser import text_string_to_metric_families

from kvcached_engine.exposition import exposition
from kvcached_engine.segment import SegmentUsage


def samples(text: str) -> dict[str, float]:
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_an_account_becomes_gauges() -> None:
    """In bytes, and as another's parser reads them."""
    text = exposition("mine", SegmentUsage(limit=300, used=200, preallocated=100))

    assert samples(text) == {
        "kvcached_active": 1,
        "kvcached_limit_bytes": 300,
        "kvcached_used_bytes": 200,
        "kvcached_preallocated_bytes": 100,
    }
    assert 'kvcached_used_bytes{ipc="mine"} 200' in text


def test_without_an_account_nothing_is_zero() -> None:
    """Unknown is not zero; that KVCached has no part is said by itself."""
    assert samples(exposition("mine", None)) == {"kvcached_active": 0}
