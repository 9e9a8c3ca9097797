"""Print comparisons and what the client did to them.  Input and output: the console."""

from rich.console import Console

from bench.loadgen.session import LoadResult
from bench.report.remarks import remarks
from bench.report.tables import client_line, comparison_table, verdict_line
from bench.stats.validity import Validity
from bench.stats.verdict import Judged


def print_comparison(judged: Judged, console: Console) -> None:
    """Print the table, what the client did to it, and the verdict."""
    found, validity = judged.comparison, judged.validity
    console.print()
    console.print(comparison_table(found))
    console.print()
    print_client(validity, judged.measured, console)
    if judged.apart:
        console.print(
            "separate runs: changes of the environment between them are part of the difference"
        )
    line = verdict_line(found, validity.reasons, partial=judged.measured.partial)
    console.print(f"[bold]{line}[/bold]", highlight=False, soft_wrap=True)


def print_client(validity: Validity, measured: LoadResult, console: Console) -> None:
    """Print what the client did to its own measurement."""
    console.print(client_line(validity), highlight=False, soft_wrap=True)
    for arm in sorted({record.arm for record in measured.records}):
        for remark in remarks(measured.of(arm)):
            console.print(f"{arm}: {remark}", markup=False, highlight=False, soft_wrap=True)
    for reason in validity.reasons:
        console.print(f"[bold red]invalid:[/bold red] {reason}", highlight=False, soft_wrap=True)
    if measured.partial:
        console.print("stopped early: results are kept and marked partial")
