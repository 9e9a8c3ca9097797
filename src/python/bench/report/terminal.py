"""Comparisons and runs on the terminal.  Output only."""

from pathlib import Path

from rich.console import Console

from bench.loadgen.run_result import LoadResult
from bench.report.grid_page import grid_markdown
from bench.report.remarks import plateau_text, rates_text, remarks
from bench.report.tables import (
    client_line,
    comparison_table,
    grid_line,
    run_table,
    verdict_line,
)
from bench.stats.factorial import GridRun
from bench.stats.plateau import rates
from bench.stats.validity import judge
from bench.stats.verdict import ComparedRun
from bench.stats.windowed_metrics import SloLimits
from bench.workload.schedule import Schedule


def print_comparison(compared: ComparedRun, console: Console) -> None:
    """Print the table, how loaded the client was, and the verdict."""
    console.print()
    console.print(comparison_table(compared.comparison))
    console.print()
    console.print(f"{rates_text(compared.comparison)}.", highlight=False, soft_wrap=True)
    # The verdict says why a run is invalid.
    print_client(compared.run, console, says_why=False)
    if not compared.run.interleaved:
        console.print(
            "separate runs: changes of the environment between them are part of the difference"
        )
    line = verdict_line(compared)
    console.print(f"[bold]{line}[/bold]", highlight=False, soft_wrap=True)


def print_grid(grid: GridRun, console: Console) -> None:
    """Print the effects, how loaded the client was, and what the effects say together."""
    console.print(grid_markdown(grid), soft_wrap=True, highlight=False)
    print_client(grid.run, console, says_why=False)
    console.print(f"[bold]{grid_line(grid)}[/bold]", highlight=False, soft_wrap=True)


def print_client(run: LoadResult, console: Console, *, says_why: bool = True) -> None:
    """Print how loaded the client was, and with *says_why* what makes the run invalid."""
    validity = judge(run.records, run.burden)
    console.print(client_line(validity), highlight=False, soft_wrap=True)
    for arm in sorted({record.arm for record in run.records}):
        for remark in remarks(run.of(arm)):
            console.print(f"{arm}: {remark}", markup=False, highlight=False, soft_wrap=True)
    for reason in validity.reasons if says_why else ():
        console.print(f"[bold red]invalid:[/bold red] {reason}", highlight=False, soft_wrap=True)
    if run.partial:
        console.print("stopped early: results are kept and marked partial")


def print_report(folder: Path, console: Console) -> None:
    """Print where the report is."""
    console.print(f"report: {folder}/report.html", soft_wrap=True, highlight=False)


def print_run(run: LoadResult, goal: SloLimits, console: Console) -> None:
    """Print latencies and rates of one arm."""
    rate = rates(run.records, map(goal.met_by, run.records))
    console.print(run_table(run, rate))
    console.print(plateau_text(rate), highlight=False, soft_wrap=True)


def print_dropped(schedule: Schedule, console: Console) -> None:
    """Print what of its workload *schedule* has not, and what else is to be said of it."""
    for text in (*([str(schedule.dropped)] if schedule.dropped else []), *schedule.notes):
        console.print(text, highlight=False, soft_wrap=True)
