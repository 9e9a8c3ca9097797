"""Results that are read back, and compared with others or with what runs now."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench.experiments.run import compare_saved
from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record
from bench.loadgen.run_result import LoadResult, RunResult
from bench.loadgen.session import Endpoint
from bench.results.context import RunContext
from bench.results.load import load_saved
from bench.results.manifest import run_result
from bench.results.store import keep_run, report_again
from bench.workload.schedule import Call, PartLayout, Schedule, whole
from servekit.errors.tree import SettingInvalid
from tests.support.records import a_record, delayed

SCHEDULE = Schedule(
    "test",
    1,
    tuple(Call(at_s=n * 0.1, model="m", prompt_tokens=100, output_tokens=3) for n in range(300)),
)
BURDEN = ClientLoad(wall_s=10.0, cpu_s=2.0, cores=1, lag_p50_ms=0.1, lag_p99_ms=1.0)


def a_context(folder: Path) -> RunContext:
    return RunContext(
        endpoint=Endpoint(), console=Console(quiet=True), output_dir=folder, options={"rate": "10"}
    )


def records_of(arm: str, later_s: float) -> list[Record]:
    return [
        msgspec.structs.replace(
            delayed(a_record(), call.at_s + later_s),
            arm=arm,
            part=1,
            part_s=call.at_s,
            due_s=call.at_s,
            sent_s=call.at_s,
        )
        for call in SCHEDULE.calls
    ]


def keep(
    folder: Path,
    arm: str,
    later_s: float = 0.0,
    *,
    layout: PartLayout | None = whole(SCHEDULE),  # noqa: B008
    schedule: Schedule = SCHEDULE,
    minute: int = 0,
) -> Path:
    """Keep a run of *arm* in *folder* as the runner does, and return where."""
    started = datetime(2026, 1, 1, 0, minute, tzinfo=UTC)
    records = records_of(arm, later_s)
    measured = LoadResult(records=records, burden=BURDEN, started=started, partial=False)
    place = folder / arm / str(minute)
    place.mkdir(parents=True)
    keep_run(
        run_result([arm], measured, schedule, layout, a_context(folder)), place, a_context(folder)
    )
    return place


def test_what_is_kept_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Records, schedule and parts, to the last bit."""
    saved = load_saved(keep(tmp_path, "one"))

    assert saved.records == records_of("one", 0.0)
    assert saved.schedule == SCHEDULE
    assert saved.layout == whole(SCHEDULE)
    assert (saved.arms, saved.burden) == (("one",), BURDEN)


def three_of_each(folder: Path) -> tuple[list[RunResult], list[RunResult]]:
    """Keep three runs of an arm, and three of another that is 50 ms slower, by turns."""
    jitter_s = (0.0, 0.002, 0.001)
    ones = [keep(folder, "one", later, minute=2 * n) for n, later in enumerate(jitter_s)]
    others = [
        keep(folder, "other", 0.05 + later, minute=2 * n + 1) for n, later in enumerate(jitter_s)
    ]
    return [load_saved(run) for run in ones], [load_saved(run) for run in others]


def test_one_saved_run_of_each_arm_carries_no_verdict(tmp_path: Path) -> None:
    """However far they are apart, both may have met another state of the machine; it says how many
    runs are missing."""
    one, other = keep(tmp_path, "one"), keep(tmp_path, "other", 0.050, minute=1)

    compared = compare_saved([load_saved(one)], [load_saved(other)], a_context(tmp_path))

    assert compared.comparison.verdict == "not shown"
    assert "need 3 runs each" in compared.comparison.reason
    assert "measure 2 more of one and 2 more of other" in compared.comparison.reason
    assert compared.comparison.row("ttft_p50").difference == pytest.approx(50.0)


def test_saved_runs_of_one_schedule_are_compared(tmp_path: Path) -> None:
    """Three of each: the slower arm is worse, and the report says that they did not take turns."""
    ones, others = three_of_each(tmp_path)

    compared = compare_saved(ones, others, a_context(tmp_path))

    assert compared.comparison.verdict == "worse"
    assert compared.comparison.row("ttft_p50").difference == pytest.approx(50.0)
    assert not compared.run.interleaved
    (folder,) = (tmp_path / "one-against-other").iterdir()
    assert "Separate runs" in (folder / "report.html").read_text()
    comparison = msgspec.json.decode((folder / "comparison.json").read_bytes())
    assert comparison["interleaved"] is False
    assert comparison["runs"] == [3, 3]
    assert comparison["turns"] is None


def test_a_run_is_compared_with_itself(tmp_path: Path) -> None:
    """The same folder twice: two names, and no difference."""
    one = load_saved(keep(tmp_path, "one"))

    compared = compare_saved([one], [one], a_context(tmp_path))

    assert compared.comparison.verdict == "not shown"
    assert compared.comparison.baseline != compared.comparison.candidate


def test_a_report_is_made_again_from_what_was_kept(tmp_path: Path) -> None:
    """Of a comparison, wherever its arms are, and of a run."""
    ones, others = three_of_each(tmp_path)
    compare_saved(ones, others, a_context(tmp_path))
    (folder,) = (tmp_path / "one-against-other").iterdir()
    page = (folder / "report.html").read_text()
    (folder / "report.html").unlink()

    text = report_again(folder, a_context(tmp_path))

    assert "other is worse than one" in text
    assert (folder / "report.html").read_text().splitlines()[:40] == page.splitlines()[:40]
    assert ones[0].folder is not None
    assert "requests/s" in report_again(ones[0].folder, a_context(tmp_path))


def test_a_comparison_of_an_older_version_is_reported_again(tmp_path: Path) -> None:
    """It named one directory of each arm."""
    one, other = keep(tmp_path, "one"), keep(tmp_path, "other", 0.050, minute=1)
    folders = ["../one/0", "../other/1"]
    said = {"baseline": "one", "candidate": "other", "folders": folders}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "comparison.json").write_bytes(msgspec.json.encode(said))

    assert "need 3 runs each" in report_again(tmp_path / "old", a_context(tmp_path))
    assert (one.name, other.name) == ("0", "1")


def test_runs_of_different_schedules_are_not_compared(tmp_path: Path) -> None:
    """The remedy is in the message."""
    other = Schedule("other", 2, SCHEDULE.calls[:-1])
    one, two = keep(tmp_path, "one"), keep(tmp_path, "two", schedule=other, layout=whole(other))

    with pytest.raises(SettingInvalid, match="replayed different schedules; run both"):
        compare_saved([load_saved(one)], [load_saved(two)], a_context(tmp_path))


def test_a_closed_loop_cannot_be_asked_again(tmp_path: Path) -> None:
    """Its requests were due when others ended: nobody else can be asked the same."""
    one = load_saved(keep(tmp_path, "one", layout=None))

    with pytest.raises(SettingInvalid, match="is a closed-loop run"):
        compare_saved([one], [one], a_context(tmp_path))


@pytest.mark.parametrize("spoilt", ["records.msgpack", "schedule.jsonl", "manifest.json"])
def test_a_folder_that_is_no_result_is_named(tmp_path: Path, spoilt: str) -> None:
    """Whatever of it is missing or broken."""
    place = keep(tmp_path, "one")
    (place / spoilt).write_bytes(b"\xc1")

    with pytest.raises(SettingInvalid, match="is not a saved run"):
        load_saved(place)
