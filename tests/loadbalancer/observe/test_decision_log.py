"""Decisions that are kept, within bounds, and replayed."""

import asyncio
import json
from pathlib import Path

import pytest

from bench.workload.decision_log import is_decision_log, read_decisions
from loadbalancer.observe.decision_log import DecisionLog, LoggedDecision
from servekit.errors.tree import WorkloadInvalid
from servekit.routing.decision import Decision
from servekit.routing.request import RouteRequest
from tests.loadbalancer.engine import Engine, post, running

STREAM = b'{"model":"m","prompt":"%s","stream":true}' % (b"lorem ipsum " * 500)


def logged(at_s: float = 0.0, outcome: str = "done") -> LoggedDecision:
    return LoggedDecision(
        decided_at_s=at_s,
        request=RouteRequest("m", 100, (1, 2, 3, 4, 5)),
        decision=Decision("r0", "latency", "least", (("r0", 0.5), ("r1", None))),
        shadow=None,
        outcome=outcome,
        status=200,
        ttft_s=0.1,
        duration_s=1.0,
        pieces=7,
        answer_bytes=None,
    )


async def test_requests_are_logged_with_what_came_of_them(tmp_path: Path) -> None:
    """What routing saw, every score, the outcome: and a simulation reads it."""
    kept = DecisionLog(tmp_path / "d.jsonl", epoch_s=1e9)
    engines = Engine("die"), Engine("stream", events=50)
    async with running(*engines, policy="latency", shadow="queue") as (balancer, port):
        balancer.decision_log = kept
        for _ in range(8):
            await post(port, STREAM)
    kept.write()

    text = (tmp_path / "d.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    done = [line for line in lines if line["outcome"] == "done"]
    assert len(done) == 8
    assert {line["outcome"] for line in lines} <= {"done", "failed"}
    assert {line["status"] for line in done} == {200}
    assert all(line["ttft_s"] <= line["duration_s"] for line in done)
    assert all(line["shadow"] in ("r0", "r1") for line in lines)
    assert all(line["decision"]["replica"] in dict(line["decision"]["scores"]) for line in lines)
    assert is_decision_log(text)
    rows = read_decisions(text, "d.jsonl")
    assert len(rows) == 8
    assert rows[0].at_s == 0.0
    # The prompt, and not the JSON around it.
    assert rows[0].prompt_tokens == pytest.approx(len(STREAM) // 4, rel=0.02)
    assert rows[0].blocks == tuple(lines[0]["request"]["blocks"][3::4])
    assert all(1 <= row.output_tokens <= 53 for row in rows)


def test_file_is_bounded(tmp_path: Path) -> None:
    """It is put aside once when it is full; whoever comes later replaces that."""
    kept = DecisionLog(tmp_path / "d.jsonl", 0.0, most_bytes=2000)
    for number in range(100):
        kept.add(logged(float(number)))
        kept.write()

    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["d.jsonl", "d.jsonl.1"]
    assert all(0 < file.stat().st_size <= 2000 for file in files)
    assert json.loads(files[0].read_text().splitlines()[-1])["decided_at_s"] == 99.0
    assert kept.lost == 0


def test_disk_that_is_full_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    """They are counted; when there is room again, so is the log, and every line in it is whole."""
    room = tmp_path / "room"
    kept = DecisionLog(room / "d.jsonl", 0.0, most_waiting=10)
    for _ in range(25):
        kept.add(logged())
    kept.write()
    assert kept.lost == 25

    room.mkdir()
    kept.add(logged(5.0))
    kept.write()

    assert len(read_decisions((room / "d.jsonl").read_text(), "d")) == 1
    full = DecisionLog(Path("/dev/full"), 0.0)
    full.add(logged())
    full.write()
    assert full.lost == 1


async def test_lines_are_written_on_the_way_out(tmp_path: Path) -> None:
    """Whoever stops the load balancer finds the last decisions, too."""
    kept = DecisionLog(tmp_path / "d.jsonl", 0.0)

    class Never:
        def now(self) -> float:
            return 0.0

        async def sleep(self, seconds: float) -> None:
            del seconds
            await asyncio.Event().wait()

    writing = asyncio.create_task(kept.run(Never()))
    await asyncio.sleep(0)
    kept.add(logged())
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)

    assert (tmp_path / "d.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("text", ['{"decided_at_s":', '{"decided_at_s": 1}'])
def test_log_that_is_no_log_is_refused(text: str) -> None:
    """With the line that cannot be read."""
    with pytest.raises(WorkloadInvalid, match="d, line 1: not a decision"):
        read_decisions(text, "d")
