"""The commands that check the measurement itself: the client, and the verdict."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import structs

from bench.cli.options import Drain, TrafficOptions, VerdictOptions
from servekit.cli.options import grouped, old_name
from servekit.errors.tree import SettingInvalid

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
    compared = grouped(self_comparison)
    app.command("self-comparison")(compared)
    app.command("self-test", hidden=True)(compared)
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
    load: TrafficOptions,
    verdict: VerdictOptions,
    runs: Annotated[
        int, typer.Option(min=1, help="Number of comparisons.", rich_help_panel="Load")
    ] = 200,
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
    like: Annotated[
        Path | None,
        typer.Option(
            help="Directory of a saved run whose schedule and turns to take.",
            rich_help_panel="Load",
        ),
    ] = None,
    drain: Drain = False,
) -> None:
    """Measure the false-alarm rate of the verdict: compare an arm with itself in virtual time.

    The turns are those of the default job unless options, or --like, say otherwise.
    """
    from rich.console import Console
    from rich.progress import track

    from bench.results.load import layout_of, load_saved
    from bench.twin.self_comparison import self_test
    from bench.workload.registry import schedule_for, trace_on_fleet
    from servekit.fleet.fleet import load_fleet

    saved = None if like is None else load_saved(like)
    layout = load.shape(verdict, drain=drain) if saved is None else layout_of(saved)
    known = load_fleet(load.fleet)
    missing = set(saved.schedule.models if saved else ()) - {one.name for one in known.models}
    if missing:
        raise SettingInvalid(
            f"--fleet {load.fleet} does not serve {', '.join(sorted(missing))}, which {like} "
            "requested; give the fleet file of that run"
        )
    console = Console()

    def schedules() -> "Iterator[Schedule]":
        for seed in track(range(runs), "comparing", console=console, transient=True):
            yield (
                schedule_for(
                    layout,
                    structs.replace(
                        trace_on_fleet(known, load.rate, seed),
                        workload=load.workload,
                        arrivals=load.arrivals,
                    ),
                )
                if saved is None
                else saved.schedule
            )

    found = self_test(schedules(), known, layout, slow, min_effect=verdict.min_effect)
    shape = f"{layout.parts} turns of {layout.part_s:g} s"
    if slow != 1.0:
        console.print(
            f"power: {found.share:.1%} of {runs} comparisons detected a slowdown by {slow:g} "
            f"({shape})",
            soft_wrap=True,
        )
        return
    console.print(
        f"false-alarm rate: {found.share:.1%} ({found.false_alarms} of {runs} comparisons of "
        f"{shape}; max 5 %)",
        soft_wrap=True,
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
