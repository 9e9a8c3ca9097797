"""The report: complete in itself, and honest."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser

import msgspec
import pytest

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record
from bench.loadgen.run_result import RunResult
from bench.report import svg
from bench.report.comparison_page import comparison_report
from bench.report.grid_page import grid_report
from bench.report.run_page import run_report
from bench.report.tables import comparison_markdown, number
from bench.stats.factorial import CELLS, grid_run
from bench.stats.verdict import ComparedRun, conclude
from bench.stats.windowed_metrics import SloLimits
from bench.workload.schedule import Call, PartLayout, Schedule
from tests.support.records import a_record, at, delayed

LAYOUT = PartLayout(parts=9, part_s=16.0, warmup_s=0.0)
SCHEDULE = Schedule(
    "<script>",
    1,
    tuple(Call(at_s=n / 5, model="a&b", prompt_tokens=100, output_tokens=3) for n in range(9 * 80)),
)
PARTS = LAYOUT.split(SCHEDULE)[1:]
BURDEN = ClientLoad(wall_s=10.0, cpu_s=2.0, cores=1, lag_p50_ms=0.1, lag_p99_ms=1.0)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Balance(HTMLParser):
    """Fails on a tag that is closed without having been opened, or never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        if tag not in VOID and tag not in ("line", "rect", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        if tag in ("rect", "circle", "line"):
            return
        assert self.open.pop() == tag


def stands_alone(page: str) -> None:
    """Nothing in it is fetched, and every tag is closed."""
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    balance = Balance()
    balance.feed(page)
    assert balance.open == []


def a_run(arms: Sequence[str], records: list[Record], burden: ClientLoad = BURDEN) -> RunResult:
    return RunResult(
        arms=tuple(arms),
        records=records,
        burden=burden,
        started=datetime(2026, 1, 1, tzinfo=UTC),
        partial=False,
        schedule=SCHEDULE,
        layout=LAYOUT,
        manifest={"schedule": {"workload": "<script>"}},
    )


def baseline_records() -> list[Record]:
    return [
        msgspec.structs.replace(at(a_record(served_by="r<1>"), p.number, n / 5), model="a&b")
        for p in PARTS
        for n in range(80)
    ]


def compared(
    later_s: float = 0.0, burden: ClientLoad = BURDEN, *, partial: bool = False
) -> ComparedRun:
    """Return two arms, the candidate's responses *later_s* later than the baseline's."""
    baseline = baseline_records()
    candidate = [msgspec.structs.replace(delayed(r, later_s), arm="managed") for r in baseline]
    run = a_run(("baseline", "managed"), [*baseline, *candidate], burden)
    run = msgspec.structs.replace(run, partial=partial)
    return conclude(run, SloLimits(), parts=PARTS)


def test_the_page_needs_no_network_and_is_well_formed() -> None:
    """No address in it is fetched, every tag is closed, and names from outside are escaped."""
    page = comparison_report(compared(0.01)).html

    stands_alone(page)
    assert "a&amp;b" in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") >= 7


def test_the_verdict_comes_first() -> None:
    """A worse candidate is called worse in the first heading."""
    heading = re.search(r"<h1>(.*?)</h1>", comparison_report(compared(0.01)).html)

    assert heading is not None
    assert heading[1] == "managed is worse than baseline"


def test_equal_arms_are_called_equal() -> None:
    """No difference is said to be no difference."""
    assert "No significant difference" in comparison_report(compared()).html


def test_an_invalid_run_says_so_instead_of_a_verdict() -> None:
    """Whoever reads only the heading is not misled."""
    heavy = msgspec.structs.replace(BURDEN, cpu_s=9.5)

    page = comparison_report(compared(0.01, heavy, partial=True)).html

    assert "<h1>This run is invalid</h1>" in page
    assert "stopped early" in page


def test_a_report_of_nothing_is_still_a_page() -> None:
    """A run that was stopped at once leaves a report that says what it lacks."""
    nothing = conclude(a_run(("baseline", "managed"), []), SloLimits())

    assert "This run is invalid" in comparison_report(nothing).html


def test_the_markdown_has_a_row_per_metric() -> None:
    """Fit for a pull request."""
    lines = comparison_markdown(compared(0.01).comparison).splitlines()

    assert lines[0].startswith("|  | baseline | managed | difference |")
    assert all(line.count("|") == 7 for line in lines)
    assert len(lines) == 15


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (1234.5, "1,234"), (12.345, "12.35"), (0.01234, "0.012")],
)
def test_numbers_have_the_figures_that_matter(value: float | None, text: str) -> None:
    """Three or so, and a dash where nothing is known."""
    assert number(value) == text


@pytest.mark.parametrize(("low", "high"), [(1.0, 1000.0), (52.0, 58.0), (0.01, 90.0)])
def test_a_logarithmic_axis_has_ticks(low: float, high: float) -> None:
    """However narrow or wide."""
    ticks = svg.Axis("ms", low, high, log=True).ticks()

    assert 2 < len(ticks) < 10
    assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)


def test_a_2x2_shows_its_effects_first() -> None:
    """Four cells by name, an effect for each factor, and no verdict on the interaction's sign."""
    records = [
        msgspec.structs.replace(delayed(r, 0.01 * (cell[0] == "1")), arm=cell)
        for cell in CELLS
        for r in baseline_records()
    ]

    grid = grid_run(a_run(CELLS, records), ["plain & old", "b", "c", "d"], SloLimits())
    page = grid_report(grid).html

    stands_alone(page)
    assert "00: plain &amp; old" in page
    assert "engine: worse in TTFT p50" in page
    assert page.index("Effects") < page.index("Distributions")
    ttft = page[page.index("<td>TTFT mean (ms)") :]
    assert ttft.startswith('<td>TTFT mean (ms)</td><td><b class="worse">+10.00</b>')


def test_a_run_has_a_page_of_its_own() -> None:
    """Numbers instead of a verdict; both clocks; nothing that is fetched."""
    run = msgspec.structs.replace(a_run(["a<b"], baseline_records()), partial=True)

    page = run_report(run, SloLimits()).html

    stands_alone(page)
    assert "<h1>a&lt;b served" in page
    assert "stopped early" in page
    assert "p99 (sent)" in page


def test_several_tokens_an_event_are_no_inter_token_latency() -> None:
    """The gaps have a plot of their own name, and ITL has none."""
    chunks = [msgspec.structs.replace(r, completion_tokens=9) for r in baseline_records()]
    both = [msgspec.structs.replace(r, arm=arm) for arm in ("baseline", "managed") for r in chunks]

    page = comparison_report(
        conclude(a_run(("baseline", "managed"), both), SloLimits(), parts=PARTS)
    ).html

    assert "Inter-chunk latency" in page
    assert "inter-chunk latency p50 (ms)" in page
    assert "Inter-token latency (ITL)" not in page
    assert "ITL p50 (ms)" not in page
