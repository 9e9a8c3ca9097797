"""Records as Parquet, for whoever has pyarrow."""

import io

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from bench.results.parquet import records_parquet
from tests.support.records import a_record

RECORDS = [
    a_record(served_by="llama-8b-1"),
    a_record(error="http 503", content_s=(), wrote_s=None, completion_tokens=None),
]


def test_a_row_has_what_the_record_has() -> None:
    """Times to the nanosecond, every event's with them."""
    first, _ = pq.read_table(io.BytesIO(records_parquet(RECORDS))).to_pylist()

    assert first["content_ns"] == [50_000_000, 60_000_000, 70_000_000]
    assert (first["due_ns"], first["end_ns"]) == (0, 80_000_000)
    assert (first["served_by"], first["completion_tokens"], first["error"]) == (
        "llama-8b-1",
        3,
        None,
    )


def test_unknown_is_null() -> None:
    """Neither zero nor an empty string."""
    _, failed = pq.read_table(io.BytesIO(records_parquet(RECORDS))).to_pylist()

    assert failed["error"] == "http 503"
    assert failed["content_ns"] == []
    assert failed["wrote_ns"] is failed["completion_tokens"] is failed["served_by"] is None


def test_a_run_without_a_request_is_a_table_without_a_row() -> None:
    """With the columns that every other has."""
    empty, full = (pq.read_table(io.BytesIO(records_parquet(r))) for r in ([], RECORDS))

    assert empty.num_rows == 0
    assert empty.schema == full.schema
