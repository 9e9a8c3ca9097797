"""The commands that compare: `compare`, `report` and `grid`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.asked import served_models, with_text_scales, workload_for
from bench.cli.options import (
    ArmNames,
    Drain,
    EngineCheckOptions,
    FailOn,
    Models,
    OutputOptions,
    ResetPrefixCache,
    SloOptions,
    TrafficOptions,
    VerdictOptions,
    check_fail_on,
    exit_as,
    run_context,
)
from bench.cli.request_options import DataOptions, RequestOptions
from servekit.cli.options import grouped
from servekit.errors.tree import SettingInvalid

if TYPE_CHECKING:
    from bench.loadgen.run_result import RunResult
    from bench.results.context import RunContext
    from bench.target.arms import Arm
    from bench.workload.schedule import PartLayout, Schedule

_ARM = (
    "{} arm: a URL or NAME=URL, an environment (baseline, managed), sim:BALANCER[:POLICY][@SPEED] "
    "for a simulated fleet, or the directories of saved runs, comma-separated."
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(grouped(compare))
    app.command()(grouped(report))
    app.command()(grouped(grid))


def compare(
    context: typer.Context,
    baseline: Annotated[str, typer.Argument(help=_ARM.format("Baseline"))],
    candidate: Annotated[str, typer.Argument(help=_ARM.format("Candidate"))],
    load: TrafficOptions,
    data: DataOptions,
    limits: SloOptions,
    upstream: RequestOptions,
    verdict: VerdictOptions,
    proofs: EngineCheckOptions,
    kept: OutputOptions,
    model: Models = None,
    names: ArmNames = None,
    drain: Drain = True,
    reset_prefix_cache: ResetPrefixCache = False,
    fail_on: FailOn = None,
) -> None:
    """Compare any two of: URLs, environments, simulated fleets, saved runs.

    Two live arms replay one schedule in turns.  A live arm replays the schedule of saved runs, as
    often as there are runs; a verdict on runs needs at least three of each arm.
    """
    from bench.experiments.run import compare_saved, compare_urls

    check_fail_on(fail_on)
    given = run_context(
        context, kept, upstream=upstream, goal=limits.goal(), min_effect=verdict.min_effect
    )
    specs = [baseline, candidate]
    saved = [_saved(spec) for spec in specs]
    first = saved[0] or saved[1]
    if first and names is not None:
        raise SettingInvalid("--names is for arms that run; saved runs keep their names")
    if not first:
        with live_arms(specs, load.fleet, given) as started:
            arms = _with_engines(_called(started, names), proofs)
            proven = _prove(arms, proofs, _resetting(arms, given, reset_prefix_cache, drain))
            shape = load.shape(verdict, drain=drain)
            schedule, proven = _plan(context, arms, load, data, model, shape, proven)
            exit_as(compare_urls(arms, schedule, shape, proven), fail_on)
        return
    both = [
        own or _measure_like(first, spec, load.fleet, proofs, given)
        for own, spec in zip(saved, specs, strict=True)
    ]
    exit_as(compare_saved(both[0], both[1], given), fail_on)


def _saved(spec: str) -> "list[RunResult]":
    """Return the saved runs that *spec* names; none where it is no directory."""
    from bench.results.load import load_saved

    names = [name for name in spec.split(",") if name]
    if not any(Path(name).is_dir() for name in names):
        return []
    folders = {Path(name).resolve(): Path(name) for name in names}
    if len(folders) < len(names):
        raise SettingInvalid(f"{spec!r} names a directory twice; a run counts once")
    return [load_saved(folder) for folder in folders.values()]


def _measure_like(
    saved: "list[RunResult]", spec: str, fleet: str, proofs: EngineCheckOptions, given: "RunContext"
) -> "list[RunResult]":
    """Ask *spec* what *saved* were asked; whether it serves those models is looked at first."""
    from bench.experiments.run import measure_like

    with live_arms([spec], fleet, given) as (arm,):
        proven = _prove([arm], proofs, given)
        served = served_models(arm.url, given.endpoint)
        missing = sorted(set(saved[0].schedule.models) - set(served))
        if missing:
            raise SettingInvalid(
                f"{arm.url} does not serve {', '.join(missing)}, which {saved[0].folder} requested"
            )
        return measure_like(saved, arm, proven)


def _plan(
    context: typer.Context,
    arms: "Sequence[Arm]",
    load: TrafficOptions,
    data: DataOptions,
    models: list[str] | None,
    shape: "PartLayout",
    given: "RunContext",
) -> "tuple[Schedule, RunContext]":
    """Return the schedule that all *arms* replay in *shape*, and *given* with how the first arm
    counts words."""
    from bench.workload.registry import schedule_for

    ask = workload_for(
        context,
        [arm.url for arm in arms],
        models,
        load.workload,
        data,
        given.endpoint,
        seed=load.seed,
        rate=load.rate,
        arrivals=load.arrivals,
    )
    return schedule_for(shape, ask), with_text_scales(given, arms[0].url, ask)


def _with_engines(arms: "Sequence[Arm]", proofs: EngineCheckOptions) -> "list[Arm]":
    """Return *arms* with the engines that --engines names, which are then scraped as well."""
    import msgspec

    own = [list(arm.replicas.values()) for arm in arms]
    engines = _for_each_arm("--engines", proofs.engines, own)
    return [
        arm
        if arm.replicas
        else msgspec.structs.replace(arm, replicas={url.partition("//")[2]: url for url in urls})
        for arm, urls in zip(arms, engines, strict=True)
    ]


def _resetting(
    arms: "Sequence[Arm]", given: "RunContext", wanted: bool, drain: bool
) -> "RunContext":
    """Return *given*, with prefix caches reset before each turn if that is *wanted*."""
    import msgspec

    if not wanted:
        return given
    if not drain:
        raise SettingInvalid("--reset-prefix-cache needs --drain: an engine must be idle for it")
    without = [arm.name for arm in arms if not arm.replicas]
    if without:
        raise SettingInvalid(
            f"--reset-prefix-cache: engines of {without[0]} unknown; set --engines"
        )
    return msgspec.structs.replace(given, reset_prefix_caches=True)


def _prove(arms: "Sequence[Arm]", proofs: EngineCheckOptions, given: "RunContext") -> "RunContext":
    """Return *given* with what the engines of *arms* proved to be.

    Raises:
        EngineMismatch: they are not what they are said to be.
    """
    import msgspec
    import uvloop

    from bench.target.engine_checks import ExpectedEngine, KvcachedSource, check, kvcached_arms

    own = [list(arm.replicas.values()) for arm in arms]
    engines = _for_each_arm("--engines", proofs.engines, own)
    metrics = _for_each_arm("--kvcached-metrics", proofs.kvcached_metrics, [[] for _ in arms])
    must = kvcached_arms(proofs.expect_kvcached, len(arms))
    proven = {}
    for arm, urls, said_at, has_it in zip(arms, engines, metrics, must, strict=True):
        expected = ExpectedEngine(
            version=proofs.expect_version,
            prefix_caching=proofs.expect_prefix_caching,
            kvcached=has_it,
        )
        witness = KvcachedSource(kvctl=proofs.kvctl, metrics=tuple(said_at))
        proven[arm.name] = uvloop.run(check(expected, urls, witness))
    return msgspec.structs.replace(given, engine_facts={k: v for k, v in proven.items() if v})


def _for_each_arm(
    option: str, given: list[str] | None, otherwise: list[list[str]]
) -> list[list[str]]:
    """Return the URLs that *option* gives for each arm; *otherwise* where it was left out."""
    if not given:
        return otherwise
    if len(given) != len(otherwise):
        raise SettingInvalid(
            f"{option} was given {len(given)} times; give it once per arm ({len(otherwise)} times)"
        )
    return [[url for url in urls.split(",") if url] for urls in given]


def report(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Directory of a comparison or of a run.")],
    markdown: Annotated[
        Path | None,
        typer.Option(
            help="Write the Markdown summary to this file instead of the terminal.",
            rich_help_panel="Results",
        ),
    ] = None,
    *,
    kept: OutputOptions,
) -> None:
    """Rebuild the report of a saved run or comparison, and print its summary in Markdown."""
    from bench.results.files import write_file
    from bench.results.store import report_again

    text = report_again(folder, run_context(context, kept))
    if markdown is None:
        typer.echo(text)
    else:
        write_file(markdown, text)


def grid(
    context: typer.Context,
    cells: Annotated[
        list[str],
        typer.Argument(
            help="Four arms: engine A with load balancer A, A with B, B with A, B with B. "
            "Directories of saved runs: four, or four for each of several starts.",
            metavar="ARM...",
        ),
    ],
    load: TrafficOptions,
    data: DataOptions,
    limits: SloOptions,
    upstream: RequestOptions,
    proofs: EngineCheckOptions,
    kept: OutputOptions,
    model: Models = None,
    names: ArmNames = None,
    drain: Drain = True,
    reset_prefix_cache: ResetPrefixCache = False,
) -> None:
    """Measure a 2x2 design: the effects of engine and load balancer, and their interaction.

    An arm `sim:BALANCER[:POLICY][@SPEED]` is a simulated fleet whose engines run SPEED times as
    fast.
    """
    from bench.experiments.run import grid_of_saved, measure_grid

    if len(cells) % 4 == 0 and cells and all(Path(cell).is_dir() for cell in cells):
        saved = run_context(context, kept, upstream=upstream, goal=limits.goal())
        grid_of_saved([Path(cell) for cell in cells], saved)
        return
    if len(cells) != 4:
        raise SettingInvalid(f"grid needs 4 arms (a 2x2 design), not {len(cells)}")
    given = run_context(context, kept, upstream=upstream, goal=limits.goal())
    with live_arms(cells, load.fleet, given) as started:
        arms = _with_engines(_called(started, names), proofs)
        proven = _prove(arms, proofs, _resetting(arms, given, reset_prefix_cache, drain))
        shape = load.shape(drain=drain)
        schedule, proven = _plan(context, arms, load, data, model, shape, proven)
        if measure_grid(arms, schedule, shape, proven).partial:
            raise typer.Exit(130)


@contextmanager
def live_arms(specs: list[str], fleet: str, given: "RunContext") -> "Iterator[list[Arm]]":
    """Give the arms that *specs* name, starting those that are simulated, while the block lasts."""
    from bench.experiments.run import fleets
    from bench.results.files import new_scratch_folder
    from bench.target.arms import check_installed

    simulated = [spec.removeprefix("sim:") for spec in specs if spec.startswith("sim:")]
    check_installed(simulated)
    if not simulated:
        yield [_arm_at(spec) for spec in specs]
        return
    with fleets(simulated, fleet, new_scratch_folder(given.output_dir), given) as started:
        own = iter(started)
        yield [next(own) if spec.startswith("sim:") else _arm_at(spec) for spec in specs]


def _called(arms: "Sequence[Arm]", names: str | None) -> "list[Arm]":
    """Return *arms* under *names*, or their own, each name once.

    Raises:
        SettingInvalid: there are more or fewer names than arms, or two are equal.
    """
    import msgspec

    from bench.target.arms import distinct

    if names is None:
        return distinct(arms)
    given = [name.strip() for name in names.split(",")]
    if len(given) != len(arms) or len(set(given)) < len(given) or not all(given):
        raise SettingInvalid(f"--names {names!r} must be {len(arms)} different names")
    return [msgspec.structs.replace(arm, name=name) for arm, name in zip(arms, given, strict=True)]


def _arm_at(spec: str) -> "Arm":
    """Return the arm that `URL`, `NAME=URL` or an environment's name stands for."""
    from bench.target.arms import ENVIRONMENTS, Arm

    name, given, url = spec.partition("=http")
    if given and name and "/" not in name:
        return Arm(name=name, url=f"http{url}")
    return Arm(name=spec, url=ENVIRONMENTS.get(spec, spec))
