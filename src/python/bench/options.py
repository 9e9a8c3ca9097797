"""Options that several commands share, and what they stand for.

Commands import what they need when they run, so that `--help` and mistakes answer at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from servekit.errors.tree import SettingInvalid

if TYPE_CHECKING:
    from bench.jobs import Judged, Setting

# The fleet `h100` under the Mooncake trace: queues form now and then, and nothing is saturated
# (docs/benchmarks/client.md).
DEFAULT_RATE = 32.0

OutputDir = Annotated[Path, typer.Option(help="Where results are kept.")]
Seed = Annotated[int, typer.Option(help="Every random choice comes from it.")]
Rate = Annotated[float, typer.Option(help="Requests per second, over all models.")]
WorkloadName = Annotated[
    str, typer.Option(help="mooncake, default, synthetic, shared-prefix, multi-turn, or a file.")
]
ArrivalShape = Annotated[
    str, typer.Option(help="trace, constant, poisson, gamma:CV, ramp:TO or burst:SIZE.")
]
FailOn = Annotated[
    str | None, typer.Option(help="worse: exit with 1 if the verdict is worse, or invalid.")
]
Fleet = Annotated[str, typer.Option(help="A fleet of ours by name, or a fleet file.")]
Parts = Annotated[int, typer.Option(min=1, help="Parts that each arm replays.")]
PartSeconds = Annotated[float, typer.Option(min=1.0, help="Seconds of a part.")]
WarmupSeconds = Annotated[float, typer.Option(min=0.0, help="Seconds that do not count.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", "-m", help="May be repeated; default: all.")
]


def setting(
    context: typer.Context,
    output_dir: Path,
    *,
    chat: bool = False,
    stream: bool = True,
    timeout_s: float = 300.0,
    workers: int = 1,
) -> "Setting":
    """Return what every job is given: how to send, where to print and keep, what was asked."""
    from rich.console import Console

    from bench.jobs import Setting
    from bench.measuring import Target
    from servekit.client.client import CHAT, COMPLETIONS

    path = CHAT if chat else COMPLETIONS
    return Setting(
        target=Target(path=path, stream=stream, timeout_s=timeout_s),
        # A file or a pipe has no width; the widest table needs this much.
        console=console if (console := Console()).is_terminal else Console(width=120),
        output_dir=output_dir,
        options={name: str(value) for name, value in context.params.items() if value is not None},
        workers=workers,
    )


def one_url(env: str | None, url: str | None) -> str:
    """Return the one URL that was asked for.

    Raises:
        SettingInvalid: none was, or two were, or there is no such environment.
    """
    from bench.arms import environment_url

    if (env is None) == (url is None):
        raise SettingInvalid("give either --env baseline|managed or --url http://host:port")
    return url if url is not None else environment_url(env or "")


def served_models(url: str) -> list[str]:
    """Return the models at *url*.

    Raises:
        EngineUnreachable: nobody answers there.
    """
    import uvloop

    from bench.arms import models_at

    return list(uvloop.run(models_at(url)))


def check_fail_on(fail_on: str | None) -> None:
    """Raise unless *fail_on* is one of the values that there are."""
    if fail_on not in (None, "worse"):
        raise SettingInvalid(f"--fail-on {fail_on!r}: there is only worse")


def exit_as(judged: "Judged", fail_on: str | None) -> None:
    """End with 130 if it was stopped, with 1 where `--fail-on worse` says so."""
    if judged.measured.partial:
        raise typer.Exit(130)
    if fail_on and (judged.comparison.verdict in ("worse", "mixed") or not judged.validity.valid):
        raise typer.Exit(1)
