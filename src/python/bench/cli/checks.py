"""The commands that check the measurement itself: `calibrate`, `self-test`, `beside-aiperf`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import Fleet

if TYPE_CHECKING:
    from bench.workload.schedule import Schedule


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(calibrate)
    app.command("self-test")(self_test)
    app.command("beside-aiperf")(beside_aiperf)


def calibrate(
    concurrency: Annotated[list[int] | None, typer.Option(min=1, help="May be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Per concurrency.")] = 5.0,
) -> None:
    """Measure this client on this machine against an upstream whose timing is known."""
    from rich.console import Console

    from bench.experiments import client_accuracy as job

    with tempfile.TemporaryDirectory() as folder:
        found = job.calibrate(concurrency or [1, 16, 64], seconds, Path(folder) / "mock.log")
    console = Console()
    console.print(f"against TTFT {job.TTFT_MS:g} ms, ITL {job.ITL_MS:g} ms, {job.TOKENS} tokens:")
    console.print(job.calibration_table(found))


def self_test(
    runs: Annotated[int, typer.Option(min=1, help="Comparisons of an arm with itself.")] = 200,
    rate: Annotated[float, typer.Option(help="Requests per second, over all models.")] = 16.0,
    slow: Annotated[float, typer.Option(help="Slow one arm down: how often is that seen?")] = 1.0,
    fleet: Fleet = "h100",
) -> None:
    """Compare an arm with itself in virtual time: how often does the verdict see a difference?"""
    from rich.console import Console
    from rich.progress import track

    from bench.twin import self_comparison
    from bench.workload.registry import fleet_shares, schedule_for
    from bench.workload.schedule import PartLayout
    from servekit.fleet.fleet import load_fleet

    known, shape = load_fleet(fleet), PartLayout(warmup_s=0.0)
    console = Console()

    def schedules() -> "Iterator[Schedule]":
        for seed in track(range(runs), "comparing", console=console, transient=True):
            yield schedule_for(shape, "mooncake", fleet_shares(known), rate, "trace", seed)

    found = self_comparison.self_test(schedules(), known, [shape.part_s] * shape.parts, slow)
    if slow != 1.0:
        console.print(f"{found.share:.1%} of {runs} runs saw an arm that is {slow:g} times as slow")
        return
    console.print(
        f"{found.false_alarms} false alarms in {runs} runs ({found.share:.1%}; at most 5 %)"
    )
    worst = sorted(found.by_metric.items(), key=lambda item: -item[1])[:5]
    console.print("most often, of one metric alone: " + ", ".join(f"{k} {v:.1%}" for k, v in worst))
    if found.share > 0.05:
        raise typer.Exit(1)


def beside_aiperf(
    aiperf: Annotated[str, typer.Option(help="The aiperf program.")] = "aiperf",
    concurrency: Annotated[list[int] | None, typer.Option(min=1, help="May be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="Per tool and concurrency.")] = 8.0,
    markdown: Annotated[Path | None, typer.Option(help="Write the table there as well.")] = None,
) -> None:
    """Measure aiperf and this client against the same upstream, in one run."""
    from rich.console import Console

    from bench.experiments import client_accuracy_vs_aiperf
    from bench.results.files import write_file

    with tempfile.TemporaryDirectory() as folder:
        text = client_accuracy_vs_aiperf.table(
            aiperf, concurrency or [1, 16, 64], seconds, Path(folder)
        )
    Console().print(text, highlight=False, markup=False)
    if markdown is not None:
        write_file(markdown, text)
