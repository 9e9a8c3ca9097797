"""The commands that compare: `compare`, `report` and `grid`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.options import (
    DEFAULT_RATE,
    ArrivalShape,
    FailOn,
    Fleet,
    Models,
    OutputDir,
    Parts,
    PartSeconds,
    Rate,
    Seed,
    WarmupSeconds,
    WorkloadName,
    check_fail_on,
    exit_as,
    served_models,
    setting,
)
from servekit.errors.tree import SettingInvalid

if TYPE_CHECKING:
    from bench.arms import Arm
    from bench.jobs import Setting

_ARM = (
    "a URL, an environment (baseline, managed), sim:BALANCER[:POLICY], or a saved result's folder"
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(compare)
    app.command()(report)
    app.command()(grid)


def compare(
    context: typer.Context,
    baseline: Annotated[str, typer.Argument(help=_ARM)],
    candidate: Annotated[str, typer.Argument(help="likewise")],
    output_dir: OutputDir = Path("results"),
    workload: WorkloadName = "mooncake",
    model: Models = None,
    rate: Rate = DEFAULT_RATE,
    arrivals: ArrivalShape = "trace",
    parts: Parts = 4,
    part_s: PartSeconds = 15.0,
    warmup_s: WarmupSeconds = 10.0,
    drain: Annotated[
        bool, typer.Option(help="Wait for an arm's answers before the other's turn.")
    ] = True,
    fleet: Fleet = "h100",
    seed: Seed = 1,
    fail_on: FailOn = None,
    engines: Annotated[
        list[str] | None,
        typer.Option(help="The engines of the arms, URL,URL,…: once for each, baseline first."),
    ] = None,
    expect_version: Annotated[
        str | None, typer.Option(help="Refuse to run unless every engine has this version.")
    ] = None,
    expect_prefix_caching: Annotated[
        bool | None, typer.Option(help="Refuse to run unless every engine does, or does not.")
    ] = None,
    expect_kvcached: Annotated[
        str | None, typer.Option(help="candidate or both: refuse to run without KVCached there.")
    ] = None,
    kvctl: Annotated[str, typer.Option(help="How kvctl is run: 'ssh gpu-host kvctl'.")] = "kvctl",
) -> None:
    """Compare any two of: URLs, environments, simulated fleets; or two saved results."""
    from bench.jobs import compare_saved, compare_urls
    from bench.saved import load_saved
    from bench.schedule import Shape
    from bench.sources import schedule_for

    check_fail_on(fail_on)
    given = setting(context, output_dir)
    saved = [Path(spec) for spec in (baseline, candidate) if Path(spec).is_dir()]
    if len(saved) == 2:
        exit_as(compare_saved(load_saved(saved[0]), load_saved(saved[1]), given), fail_on)
        return
    if saved:
        raise SettingInvalid(
            f"{saved[0]} is a saved result and the other arm is not: they cannot be interleaved; "
            "compare two running arms, or two saved ones"
        )
    shape = Shape(parts=parts, part_s=part_s, warmup_s=warmup_s, drain=drain)
    with live_arms([baseline, candidate], fleet, given) as arms:
        version, caching = expect_version, expect_prefix_caching
        _prove(_with_engines(arms, engines or []), version, caching, expect_kvcached, kvctl)
        shares = dict.fromkeys(model or served_models(arms[0].url), 1.0)
        schedule = schedule_for(shape, workload, shares, rate, arrivals, seed)
        exit_as(compare_urls(arms, schedule, shape, given), fail_on)


def _with_engines(arms: "list[Arm]", engines: list[str]) -> "list[Arm]":
    """Return *arms* with the engines that were given for them by hand."""
    import msgspec

    if engines and len(engines) != len(arms):
        raise SettingInvalid(f"--engines was given {len(engines)} times; give it once for each arm")
    given = [dict(zip(urls.split(","), urls.split(","), strict=True)) for urls in engines]
    return [
        msgspec.structs.replace(arm, replicas=own)
        for arm, own in zip(arms, given or [arm.replicas for arm in arms], strict=True)
    ]


def _prove(
    arms: "list[Arm]", version: str | None, caching: bool | None, kvcached: str | None, kvctl: str
) -> None:
    """Raise unless the engines of each arm are what they are said to be."""
    import uvloop

    from bench.proof import Expected, check

    if kvcached not in (None, "candidate", "both"):
        raise SettingInvalid(f"--expect-kvcached {kvcached!r}: there are candidate and both")
    for arm, has_it in zip(arms, (kvcached == "both", kvcached is not None), strict=True):
        expected = Expected(
            version=version, prefix_caching=caching, kvcached=True if has_it else None
        )
        uvloop.run(check(expected, list(arm.replicas.values()), kvctl))


def report(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The candidate's folder of a comparison.")],
    markdown: Annotated[
        Path | None, typer.Option(help="Write the summary there, not to the terminal.")
    ] = None,
) -> None:
    """Make report.html of a saved comparison again, and print its summary in Markdown."""
    from bench.jobs import report_again
    from bench.results import write_file

    text = report_again(folder, setting(context, folder.parent.parent))
    if markdown is None:
        typer.echo(text)
    else:
        write_file(markdown, text)


def grid(
    context: typer.Context,
    cells: Annotated[
        list[str],
        typer.Argument(
            help="Four arms: engine A with balancer A, A with B, B with A, B with B.",
            metavar="ARM...",
        ),
    ],
    output_dir: OutputDir = Path("results"),
    workload: WorkloadName = "mooncake",
    model: Models = None,
    rate: Rate = DEFAULT_RATE,
    arrivals: ArrivalShape = "trace",
    parts: Parts = 4,
    part_s: PartSeconds = 10.0,
    warmup_s: WarmupSeconds = 10.0,
    drain: Annotated[
        bool, typer.Option(help="Wait for an arm's answers before the next one's turn.")
    ] = True,
    fleet: Fleet = "h100",
    seed: Seed = 1,
) -> None:
    """Two engines times two load balancers: what each contributes, and what only both do.

    An arm `sim:BALANCER[:POLICY][@SPEED]` is a simulated fleet whose engines run SPEED times as
    fast.
    """
    from bench.jobs import measure_grid
    from bench.schedule import Shape
    from bench.sources import schedule_for

    if len(cells) != 4:
        raise SettingInvalid(f"{len(cells)} cells were given; a 2x2 design has four")
    shape = Shape(parts=parts, part_s=part_s, warmup_s=warmup_s, drain=drain)
    given = setting(context, output_dir)
    with live_arms(cells, fleet, given) as arms:
        shares = dict.fromkeys(model or served_models(arms[0].url), 1.0)
        schedule = schedule_for(shape, workload, shares, rate, arrivals, seed)
        measure_grid(arms, schedule, shape, given)


@contextmanager
def live_arms(specs: list[str], fleet: str, given: "Setting") -> "Iterator[list[Arm]]":
    """Give the arms that *specs* name, starting those that are simulated, while the block lasts."""
    from bench.arms import ENVIRONMENTS, Arm, check_installed
    from bench.jobs import fleets
    from bench.results import new_scratch_folder

    simulated = [spec.removeprefix("sim:") for spec in specs if spec.startswith("sim:")]
    check_installed(simulated)
    logs = new_scratch_folder(given.output_dir) if simulated else Path()
    with fleets(simulated, fleet, logs, given) as started:
        own = iter(started)
        yield [
            next(own)
            if spec.startswith("sim:")
            else Arm(name=spec, url=ENVIRONMENTS.get(spec, spec))
            for spec in specs
        ]
