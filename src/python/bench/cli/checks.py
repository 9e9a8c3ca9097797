"""The commands that check the measurement itself: the client, and the verdict."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import Fleet
from servekit.cli.options import old_name

if TYPE_CHECKING:
    from bench.workload.schedule import Schedule

DEFAULT_LEVELS = [1, 16, 64]

Concurrencies = Annotated[
    list[int] | None,
    typer.Option(
        min=1, help="Concurrent requests; repeatable. Default: 1, 16, 64.", rich_help_panel="Load"
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("client-accuracy")(client_accuracy)
    app.command("calibrate", hidden=True)(client_accuracy)
    app.command("self-comparison")(self_comparison)
    app.command("self-test", hidden=True)(self_comparison)
    app.command("client-accuracy-vs-aiperf")(client_accuracy_vs_aiperf)
    app.command("beside-aiperf", hidden=True)(client_accuracy_vs_aiperf)


def client_accuracy(
    concurrency: Concurrencies = None,
    seconds: Annotated[
        float, typer.Option(min=0.5, help="Duration per concurrency (s).", rich_help_panel="Load")
    ] = 5.0,
) -> None:
    """Measure the error and the max rate of this client, on this machine.

    The target is a mock server with known latencies.
    """
    from rich.console import Console

    from bench.experiments import client_accuracy as job

    with tempfile.TemporaryDirectory() as folder:
        found = job.measure_accuracy(
            concurrency or DEFAULT_LEVELS, seconds, Path(folder) / "mock.log"
        )
    console = Console()
    console.print(
        f"mock server: TTFT {job.TTFT_MS:g} ms, ITL {job.ITL_MS:g} ms, {job.TOKENS} tokens"
    )
    console.print(job.accuracy_table(found))


def self_comparison(
    runs: Annotated[
        int, typer.Option(min=1, help="Number of comparisons.", rich_help_panel="Load")
    ] = 200,
    rate: Annotated[
        float,
        typer.Option(help="Requests per second, all models together.", rich_help_panel="Load"),
    ] = 16.0,
    slow: Annotated[
        float,
        typer.Option(
            "--slowdown",
            old_name("--slow"),
            min=1.0,
            help="Slow the engines of one arm down by this factor, to measure statistical power.",
            rich_help_panel="Target",
        ),
    ] = 1.0,
    fleet: Fleet = "h100",
) -> None:
    """Measure the false-alarm rate of the verdict: compare an arm with itself in virtual time."""
    from rich.console import Console
    from rich.progress import track

    from bench.twin.self_comparison import self_test
    from bench.workload.registry import schedule_for, trace_on_fleet
    from bench.workload.schedule import PartLayout
    from servekit.fleet.fleet import load_fleet

    known, layout = load_fleet(fleet), PartLayout(warmup_s=0.0)
    console = Console()

    def schedules() -> "Iterator[Schedule]":
        for seed in track(range(runs), "comparing", console=console, transient=True):
            yield schedule_for(layout, trace_on_fleet(known, rate, seed))

    found = self_test(schedules(), known, [layout.part_s] * layout.parts, slow)
    if slow != 1.0:
        console.print(
            f"power: {found.share:.1%} of {runs} comparisons detected a slowdown by {slow:g}"
        )
        return
    console.print(
        f"false-alarm rate: {found.share:.1%} ({found.false_alarms} of {runs} comparisons; max 5 %)"
    )
    worst = sorted(found.by_metric.items(), key=lambda item: -item[1])[:5]
    console.print(
        "highest false-alarm rates of single metrics: "
        + ", ".join(f"{k} {v:.1%}" for k, v in worst),
        soft_wrap=True,
    )
    if found.share > 0.05:
        raise typer.Exit(1)


def client_accuracy_vs_aiperf(
    aiperf: Annotated[
        str, typer.Option(help="Path of the aiperf program.", rich_help_panel="Load")
    ] = "aiperf",
    concurrency: Concurrencies = None,
    seconds: Annotated[
        float,
        typer.Option(
            min=1.0, help="Duration per tool and concurrency (s).", rich_help_panel="Load"
        ),
    ] = 8.0,
    markdown: Annotated[
        Path | None,
        typer.Option(help="Also write the table to this Markdown file.", rich_help_panel="Results"),
    ] = None,
) -> None:
    """Measure the errors of aiperf and of this client against the same mock server."""
    from rich.console import Console

    from bench.experiments import client_accuracy_vs_aiperf
    from bench.results.files import write_file

    with tempfile.TemporaryDirectory() as folder:
        text = client_accuracy_vs_aiperf.table(
            aiperf, concurrency or DEFAULT_LEVELS, seconds, Path(folder)
        )
    Console().print(text, highlight=False, markup=False)
    if markdown is not None:
        write_file(markdown, text)
