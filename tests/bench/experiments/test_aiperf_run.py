"""aiperf is given what we send, and what it exports is read back; its program is a stand-in that
writes a captured export."""

import json
from importlib import resources
from pathlib import Path

import pytest
from rich.console import Console

from bench.experiments.aiperf_run import measure_with_aiperf
from bench.loadgen.session import Endpoint
from bench.results.aiperf import aiperf_input, aiperf_records
from bench.results.context import RunContext
from bench.target.arms import Arm
from bench.workload.request_bodies import PromptBook
from bench.workload.schedule import Call, Schedule
from servekit.errors.tree import EngineError, SettingInvalid
from tests.support.python_program import python_program

# As the captured run was asked: see the README beside the capture.
SCHEDULE = Schedule(
    "captured",
    1,
    tuple(
        Call(at_s=n * 0.1205, model="mock", prompt_tokens=3, output_tokens=12 + n, blocks=(n,))
        for n in range(8)
    ),
)
FAILED = {3: "http 503", 5: "ClientPayloadError", 7: "http 503"}


def captured() -> bytes:
    golden = resources.files("tests.golden") / "aiperf_0.13.0" / "profile_export.jsonl"
    return golden.read_bytes()


def context(folder: Path) -> RunContext:
    return RunContext(
        endpoint=Endpoint(), console=Console(quiet=True), output_dir=folder, options={}
    )


def test_aiperf_is_given_the_bodies_that_we_send() -> None:
    """Byte for byte, when they are due; without times in a closed loop."""
    book = PromptBook(1)

    timed = aiperf_input(SCHEDULE, book.body, timed=True).splitlines()
    closed = aiperf_input(SCHEDULE, book.body, timed=False).splitlines()

    assert book.body(SCHEDULE.calls[2]) in timed[2]
    second = json.loads(timed[2])
    assert second["timestamp"] == pytest.approx(241.0)
    assert second["payload"]["max_tokens"] == second["output_length"] == 14
    assert "timestamp" not in json.loads(closed[2])


def test_a_captured_export_becomes_records() -> None:
    """Each request finds its call; times are those that aiperf saw; failures have names."""
    records = aiperf_records(captured(), SCHEDULE, "aiperf", timed=True, source="x")

    assert {n: r.error for n, r in enumerate(records) if not r.ok} == FAILED
    for call, record in zip(SCHEDULE.calls, records, strict=True):
        assert record.due_s == record.part_s == call.at_s
        assert 0.0 <= record.dispatch_delay_s < 1.0
        if record.ok:
            assert record.completion_tokens == call.output_tokens == len(record.content_s)
            assert record.event_is_token
            assert record.ttft_s is not None
            assert 0.05 < record.ttft_s < 1.0
            assert record.end_s >= record.content_s[-1] - 1e-3


def test_in_a_closed_loop_a_request_is_due_when_aiperf_lets_it_go() -> None:
    """The schedule's times mean nothing there."""
    records = aiperf_records(captured(), SCHEDULE, "aiperf", timed=False, source="x")

    assert min(record.due_s for record in records) == 0.0
    assert {record.part for record in records} == {0}


@pytest.mark.parametrize("lines", [b"", b"no\n", b"{}\n", captured() * 2 + b'{"metadata":1}\n'])
def test_what_is_no_export_is_refused(lines: bytes) -> None:
    """With the name of the file."""
    with pytest.raises(EngineError, match=r"^out\.jsonl: "):
        aiperf_records(lines, SCHEDULE, "aiperf", timed=True, source="out.jsonl")


def test_more_requests_than_were_asked_for_are_refused() -> None:
    """It is another run's export."""
    few = Schedule("few", 1, SCHEDULE.calls[:2])

    with pytest.raises(EngineError, match="8 requests in the export, 2 in the schedule"):
        aiperf_records(captured(), few, "aiperf", timed=True, source="x")


COPIES = """
import json, pathlib, sys
argv = sys.argv[1:]
folder = pathlib.Path(argv[argv.index("--artifact-dir") + 1])
(folder / "argv.json").write_text(json.dumps(argv))
(folder / "profile_export.jsonl").write_bytes(pathlib.Path({golden!r}).read_bytes())
"""


def test_aiperf_is_run_on_the_schedule_and_read_back(tmp_path: Path) -> None:
    """With the input that was written for it, on a fixed schedule, and never a hub."""
    golden = resources.files("tests.golden") / "aiperf_0.13.0" / "profile_export.jsonl"
    program = python_program(tmp_path / "aiperf-stand-in", COPIES.format(golden=str(golden)))
    folder = tmp_path / "out"

    arm = Arm(name="aiperf", url="http://127.0.0.1:1")
    measured = measure_with_aiperf(program, arm, SCHEDULE, None, context(tmp_path), folder)

    argv = json.loads((folder / "argv.json").read_text())
    assert argv[0] == "profile"
    assert "--fixed-schedule" in argv
    assert Path(argv[argv.index("--input-file") + 1]).read_bytes().count(b"\n") == 8
    assert (Path(argv[argv.index("--tokenizer") + 1]) / "tokenizer.json").exists()
    assert len(measured.records) == 8
    assert not measured.partial
    assert measured.burden.lag_p99_ms is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.exit('it broke')", "ended with 1: it broke"),
        ("", "aiperf wrote no export"),
    ],
)
def test_an_aiperf_that_fails_is_an_error(tmp_path: Path, source: str, message: str) -> None:
    """With what it said last."""
    program = python_program(tmp_path / "aiperf-stand-in", source)
    arm = Arm(name="aiperf", url="http://127.0.0.1:1")

    with pytest.raises(EngineError, match=message):
        measure_with_aiperf(program, arm, SCHEDULE, 2, context(tmp_path), tmp_path / "out")


def test_an_aiperf_that_is_not_there_is_a_context(tmp_path: Path) -> None:
    """The message says where to get one."""
    arm = Arm(name="aiperf", url="http://127.0.0.1:1")

    with pytest.raises(SettingInvalid, match="install aiperf in a separate environment"):
        measure_with_aiperf(
            str(tmp_path / "none"), arm, SCHEDULE, 2, context(tmp_path), tmp_path / "out"
        )
