"""The files that users of genai-perf and aiperf know, by their schemas."""

import csv
import io
import json
from datetime import UTC, datetime

import pytest

from bench.export import aiperf_csv, aiperf_json, aiperf_jsonl, genai_csv, genai_json
from bench.measures import busy_s, summarize, totals
from bench.record import Record, merged, read_records, write_records
from servekit.errors.tree import WorkloadInvalid
from tests.support.records import a_record, at

RECORDS = [
    at(a_record(), 0, 0.0),
    at(a_record(content_s=(0.09, 0.10, 0.11), end_s=0.12), 0, 1.0),
    at(a_record(error="http 503", detail="busy", content_s=()), 0, 2.0),
]
GENAI_HEADER = "Metric,avg,min,max,p99,p95,p90,p75,p50,p25,p10,p5,p1"
PERCENTILES = {"p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99"}


def test_the_csv_has_genai_perfs_header_and_rows() -> None:
    """A script that reads genai-perf's table reads ours."""
    upper, lower = genai_csv(RECORDS).split("\n\n")

    assert upper.splitlines()[0] == GENAI_HEADER
    assert [row[0] for row in csv.reader(io.StringIO(upper))][1:] == [
        "Time To First Token (ms)",
        "Time To Second Token (ms)",
        "Request Latency (ms)",
        "Inter Token Latency (ms)",
        "Output Token Throughput Per User (tokens/sec/user)",
        "Output Sequence Length (tokens)",
        "Input Sequence Length (tokens)",
    ]
    assert [row[0] for row in csv.reader(io.StringIO(lower))] == [
        "Metric",
        "Output Token Throughput (tokens/sec)",
        "Request Throughput (per sec)",
        "Request Count (count)",
    ]


def test_rows_of_streaming_vanish_where_nothing_was_streamed() -> None:
    """An answer that came in one piece has no first token, and the table does not invent one."""
    whole = [at(a_record(content_s=()), 0, 0.0)]

    assert "Token (ms)" not in genai_csv(whole)
    assert "Request Latency (ms)" in genai_csv(whole)


def test_the_json_has_genai_perfs_metrics() -> None:
    """Each under its snake_case name, with unit and statistics; failures are not among them."""
    shown = json.loads(genai_json(RECORDS, {"model": "m"}))

    assert shown["time_to_first_token"]["avg"] == pytest.approx(70.0)
    assert shown["inter_token_latency"]["avg"] == pytest.approx(10.0)
    assert set(shown["request_latency"]) == {"unit", "avg", "min", "max", "std"} | PERCENTILES
    assert shown["request_count"]["avg"] == 2.0
    assert shown["error_summary"] == {"http 503": 1}
    assert shown["input_config"] == {"model": "m"}


def test_aiperfs_json_has_its_fields() -> None:
    """The names of schema 1.4, with count and sum beside the percentiles."""
    now = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    shown = json.loads(
        aiperf_json(
            RECORDS, input_config={}, run_info={}, start_time=now, end_time=now, cancelled=True
        )
    )

    assert {
        "schema_version",
        "aiperf_version",
        "benchmark_id",
        "run_info",
        "input_config",
        "was_cancelled",
        "is_complete",
        "error_summary",
        "start_time",
        "end_time",
        "request_throughput",
        "request_latency",
        "request_count",
        "time_to_first_token",
        "time_to_second_token",
        "inter_token_latency",
        "inter_chunk_latency",
        "output_token_throughput",
        "output_token_throughput_per_user",
        "output_sequence_length",
        "input_sequence_length",
        "benchmark_duration",
        "request_error_rate",
        "credit_to_start_latency",
        "effective_latency",
    } <= set(shown)
    stats = {"unit", "avg", "min", "max", "std", "count", "sum"} | PERCENTILES
    assert set(shown["request_latency"]) == stats
    assert (shown["was_cancelled"], shown["is_complete"]) == (True, False)


def test_aiperfs_csv_has_its_columns() -> None:
    """The columns of profile_export_aiperf.csv."""
    header = aiperf_csv(RECORDS).splitlines()[0]

    assert header == "Metric,avg,max,min,sum,p1,p5,p10,p25,p50,p75,p90,p95,p99,std"


def test_the_jsonl_has_a_line_per_request() -> None:
    """With aiperf's metadata; a failed request has an error and no metrics."""
    lines = [json.loads(line) for line in aiperf_jsonl(RECORDS, 10**18).splitlines()]

    first, _, failed = lines
    assert first["metadata"]["request_start_ns"] == 10**18
    assert first["metadata"]["benchmark_phase"] == "profiling"
    assert first["metrics"]["time_to_first_token"] == {"value": pytest.approx(50.0), "unit": "ms"}
    assert first["metrics"]["inter_chunk_latency"]["value"] == pytest.approx([10.0, 10.0])
    assert failed["metrics"] == {}
    assert failed["error"] == {"type": "http 503", "message": "busy"}


def test_latency_counts_from_sent_and_from_due_side_by_side() -> None:
    """A request that was sent late is fast by one name and slow by the other."""
    late = a_record(sent_s=0.02, wrote_s=0.02)

    found = {measure.key: of.avg for measure, of in summarize([late]).items()}

    assert found["request_latency"] == pytest.approx(60.0)
    assert found["effective_latency"] == pytest.approx(80.0)
    assert found["credit_to_start_latency"] == pytest.approx(20.0)


def test_idle_time_does_not_count_as_duration() -> None:
    """An arm that waited for the other's turn is not slower for it."""
    assert busy_s([(0.0, 1.0), (0.5, 2.0), (10.0, 11.0)]) == 3.0
    assert totals(RECORDS).duration_s == pytest.approx(0.08 + 0.12 + 0.08)


def test_no_records_give_empty_tables() -> None:
    """A run that was stopped before its first answer still writes its files."""
    assert genai_csv([]).startswith(GENAI_HEADER)
    assert json.loads(genai_json([], {}))["request_count"]["avg"] == 0.0


def test_records_are_saved_without_loss() -> None:
    """What is read back is what was measured, to the last bit."""
    assert read_records(write_records(RECORDS), "r") == RECORDS


def test_records_of_workers_merge_into_the_whole() -> None:
    """However requests were dealt to workers, the merged run is the same."""
    assert merged([RECORDS[::2], RECORDS[1::2]]) == merged([RECORDS]) == RECORDS


def test_a_file_that_holds_no_records_is_refused() -> None:
    """The message names the file."""
    with pytest.raises(WorkloadInvalid, match=r"run.msgpack: no records"):
        read_records(b"\xc1", "run.msgpack")


def test_a_failed_request_has_no_latency() -> None:
    """Whatever its times say."""
    failed: Record = RECORDS[2]

    assert failed.ttft_s is None
    assert failed.e2e_s is None
    assert failed.itl_s is None
