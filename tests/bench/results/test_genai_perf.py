"""The files that users of genai-perf and aiperf know, by their schemas."""

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import msgspec
import pytest

from bench.loadgen.record import Record, merged, read_records, write_records
from bench.results.aiperf import aiperf_records
from bench.results.genai_perf import aiperf_csv, aiperf_json, aiperf_jsonl, genai_csv, genai_json
from bench.stats.request_metrics import summarize, totals
from bench.workload.schedule import Call, Schedule
from servekit.errors.tree import WorkloadInvalid
from tests.support.records import a_record, at

RECORDS = [
    at(a_record(), 0, 0.0),
    at(a_record(content_s=(0.09, 0.10, 0.11), end_s=0.12), 0, 1.0),
    at(a_record(error="http 503", detail="busy", content_s=()), 0, 2.0),
]
GENAI_HEADER = "Metric,avg,min,max,p99,p95,p90,p75,p50,p25,p10,p5,p1"
# aiperf has no TTFT from when a request was due, and does not say when a body was closed.
OWN_METRICS = {"effective_time_to_first_token", "close_delay"}
PERCENTILES = {"p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99"}


def aiperf_golden(name: str) -> str:
    return (resources.files("tests.golden") / "aiperf_0.13.0" / name).read_text()


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


def aiperf_json_of(records: Sequence[Record]) -> dict[str, Any]:
    now = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    text = aiperf_json(
        records, input_config={}, run_info={}, start_time=now, end_time=now, cancelled=True
    )
    return dict(json.loads(text))


def test_every_metric_of_aiperfs_json_is_one_of_its_own() -> None:
    """By name, unit and statistics, as a captured export has them; ours but two."""
    golden = json.loads(aiperf_golden("profile_export_aiperf.json"))

    ours = aiperf_json_of(RECORDS)

    assert ours.keys() - golden.keys() == OWN_METRICS
    assert {"time_to_first_token", "request_throughput", "credit_to_start_latency"} <= ours.keys()
    for name in ours.keys() & golden.keys():
        if isinstance(golden[name], dict) and "unit" in golden[name]:
            assert ours[name]["unit"] == golden[name]["unit"], name
            assert ours[name].keys() == golden[name].keys(), name


def test_what_is_no_metric_of_aiperfs_json_is_all_there() -> None:
    """Whoever asks whether the run was whole finds it where aiperf says it."""
    golden = json.loads(aiperf_golden("profile_export_aiperf.json"))
    about = {name for name, value in golden.items() if "unit" not in dict_or_empty(value)}

    ours = aiperf_json_of(RECORDS)

    assert about <= ours.keys()
    assert (ours["was_cancelled"], ours["is_complete"]) == (True, False)
    assert ours["error_summary"][0]["count"] == 1


def dict_or_empty(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def test_aiperfs_csv_has_its_columns_and_rows() -> None:
    """Both tables: header and labels are those of a captured export."""
    upper, lower = aiperf_csv(RECORDS).split("\n\n")
    golden_upper, golden_lower = aiperf_golden("profile_export_aiperf.csv").split("\n\n")[:2]

    assert upper.splitlines()[0] == golden_upper.splitlines()[0]
    assert labels(upper) - labels(golden_upper) == {
        "Effective Time To First Token (ms)",
        "Close Of Body After Last Token (ms)",
    }
    assert labels(lower) <= labels(golden_lower)


def labels(table: str) -> set[str]:
    return {row[0] for row in csv.reader(io.StringIO(table))}


def test_the_jsonl_has_a_line_per_request_as_aiperf_writes_it() -> None:
    """Its metadata is complete, its metrics have aiperf's names and units; a failure has none."""
    golden = [json.loads(line) for line in aiperf_golden("profile_export.jsonl").splitlines()]
    units = {name: of["unit"] for name, of in golden[0]["metrics"].items()}

    first, _, failed = [json.loads(line) for line in aiperf_jsonl(RECORDS, 10**18).splitlines()]

    assert golden[0]["metadata"].keys() <= first["metadata"].keys()
    assert first["metadata"]["request_start_ns"] == 10**18
    assert first["metrics"]["time_to_first_token"] == {"value": pytest.approx(50.0), "unit": "ms"}
    assert first["metrics"]["inter_chunk_latency"]["value"] == pytest.approx([10.0, 10.0])
    own = first["metrics"].keys() - units.keys()
    assert own == {*OWN_METRICS, "credit_to_start_latency", "effective_latency"}
    assert all(
        first["metrics"][name]["unit"] == units[name] for name in first["metrics"].keys() - own
    )
    assert failed["metrics"] == {}
    assert failed["error"] == {"type": "http 503", "message": "busy"}


def test_what_we_export_as_aiperf_is_read_back_as_aiperfs() -> None:
    """The file that stands for aiperf's is one to whoever reads aiperf's: our own reader."""
    calls = tuple(
        Call(at_s=r.due_s, model=r.model, prompt_tokens=100, output_tokens=3) for r in RECORDS
    )
    lines = aiperf_jsonl(RECORDS, 10**18).encode()

    read = aiperf_records(lines, Schedule("s", 1, calls), "a", timed=True, source="x")

    assert [r.error for r in read] == [r.error for r in RECORDS]
    for ours, theirs in zip(RECORDS, read, strict=True):
        assert theirs.ttft_s == pytest.approx(ours.ttft_s, abs=1e-6)
        assert theirs.e2e_s == pytest.approx(ours.e2e_s, abs=1e-6)


def test_latency_counts_from_sent_and_from_due_side_by_side() -> None:
    """A request that was sent late is fast by one name and slow by the other."""
    late = a_record(sent_s=0.02, wrote_s=0.02)

    found = {measure.key: of.avg for measure, of in summarize([late]).items()}

    assert found["request_latency"] == pytest.approx(50.0)
    assert found["effective_latency"] == pytest.approx(70.0)
    assert found["close_delay"] == pytest.approx(10.0)
    assert found["credit_to_start_latency"] == pytest.approx(20.0)


def test_duration_runs_to_the_last_token_and_idle_gaps_are_part_of_it() -> None:
    """As aiperf's: what an upstream was not asked for in a second is no throughput of its own."""
    assert totals(RECORDS).duration_s == pytest.approx(1.11)
    assert totals(RECORDS).request_throughput == pytest.approx(2 / 1.11)


def test_another_arms_turn_is_not_part_of_the_duration() -> None:
    """An arm that waited for the other's turn is not slower for it."""
    two_parts = [at(a_record(), part, 0.5 * n) for part in (0, 1) for n in range(3)]

    assert totals(two_parts).duration_s == pytest.approx(2 * 1.07)


def test_tokens_that_were_not_counted_have_no_throughput() -> None:
    """One answer without usage, and the tokens of the run are unknown: not zero, and not fewer."""
    records = [*RECORDS, at(a_record(completion_tokens=None), 0, 3.0)]

    assert totals(records).output_tokens is None
    assert "output_token_throughput" not in json.loads(genai_json(records, {}))
    assert "Output Token Throughput (tokens/sec)" not in genai_csv(records)
    assert "Total Output Tokens" not in aiperf_csv(records)


def test_exports_keep_what_the_upstream_said_of_a_failure() -> None:
    """The upstream's own words, once per kind."""
    assert json.loads(genai_json(RECORDS, {}))["error_messages"] == {"http 503": "busy"}
    assert aiperf_json_of(RECORDS)["error_summary"] == [
        {"error_details": {"type": "http 503", "message": "busy"}, "count": 1}
    ]


def test_no_records_give_empty_tables() -> None:
    """A run that was stopped before its first answer still writes its files."""
    assert genai_csv([]).startswith(GENAI_HEADER)
    assert json.loads(genai_json([], {}))["request_count"]["avg"] == 0.0


def test_records_are_saved_without_loss() -> None:
    """What is read back is what was measured, to the last bit."""
    assert read_records(write_records(RECORDS), "r") == RECORDS


def test_records_of_an_older_run_can_be_read() -> None:
    """What was not recorded then has its default."""
    new = {"answer_s", "finish", "notices", "hidden_tokens", "first_tokens"}
    rows = msgspec.msgpack.decode(write_records(RECORDS))
    older = [{name: row[name] for name in row.keys() - new} for row in rows]

    assert read_records(msgspec.msgpack.encode(older), "r") == RECORDS


def test_records_of_workers_merge_into_the_whole() -> None:
    """However requests were dealt to workers, the merged run is the same."""
    assert merged([RECORDS[::2], RECORDS[1::2]]) == merged([RECORDS]) == RECORDS


def test_a_file_that_holds_no_records_is_refused() -> None:
    """The message names the file."""
    with pytest.raises(WorkloadInvalid, match=r"run.msgpack: not a records file"):
        read_records(b"\xc1", "run.msgpack")


def test_a_failed_request_has_no_latency() -> None:
    """Whatever its times say."""
    failed: Record = RECORDS[2]

    assert failed.ttft_s is None
    assert failed.e2e_s is None
    assert failed.itl_s is None
