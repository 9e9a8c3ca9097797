"""The commands `run` and `aiperf`: measure one target, with this client or with aiperf."""

from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.asked import with_text_scales, workload_for
from bench.cli.options import (
    Env,
    OutputOptions,
    SingleLoadOptions,
    Url,
    WarmupRequests,
    one_url,
    run_context,
)
from bench.cli.request_options import DataOptions, RequestOptions
from servekit.cli.options import grouped
from servekit.errors.tree import SettingInvalid

if TYPE_CHECKING:
    from bench.loadgen.run_result import LoadResult
    from bench.results.context import RunContext
    from bench.workload.schedule import Schedule


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(grouped(run))
    app.command()(grouped(aiperf))


def run(
    context: typer.Context,
    env: Env = None,
    url: Url = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of load-generator processes.", rich_help_panel="Load")
    ] = 1,
    warmup_requests: WarmupRequests = 0,
    *,
    once: SingleLoadOptions,
    data: DataOptions,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Measure one environment or URL.

    Option names of genai-perf and aiperf are accepted where their meaning is the same.
    """
    from bench.experiments.run import measure_one
    from bench.target.arms import Arm

    where = one_url(env, url)
    given = run_context(
        context, kept, upstream=upstream, workers=workers, warmup_requests=warmup_requests
    )
    schedule, given = _plan(context, where, once, data, given)
    users = once.users(data.speed)
    measured = measure_one(Arm(name=env or "url", url=where), schedule, users, given)
    if measured.partial:
        raise typer.Exit(130)
    _fail_if_nothing_was_answered(measured)


def _fail_if_nothing_was_answered(measured: "LoadResult") -> None:
    if not any(record.ok for record in measured.records):
        raise typer.Exit(1)


def aiperf(
    context: typer.Context,
    env: Env = None,
    url: Url = None,
    aiperf: Annotated[
        str, typer.Option(help="Path of the aiperf program.", rich_help_panel="Load")
    ] = "aiperf",
    *,
    once: SingleLoadOptions,
    data: DataOptions,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Measure one environment or URL with aiperf: the same requests as `run`, the same reports."""
    from bench.experiments.run import measure_by_aiperf
    from bench.target.arms import Arm

    where = one_url(env, url)
    given = run_context(context, kept, upstream=upstream)
    schedule, given = _plan(context, where, once, data, given)
    if any(call.delay_s is not None for call in schedule.calls):
        raise SettingInvalid("aiperf is given whole requests, without conversations; use `run`")
    arm = Arm(name="aiperf", url=where)
    measured = measure_by_aiperf(aiperf, arm, schedule, once.users(data.speed), given)
    if measured.partial:
        raise typer.Exit(1)
    _fail_if_nothing_was_answered(measured)


def _plan(
    context: typer.Context,
    where: str,
    once: SingleLoadOptions,
    data: DataOptions,
    given: "RunContext",
) -> "tuple[Schedule, RunContext]":
    """Return what is sent, and *given* with how the server counts words."""
    from bench.workload.registry import make_schedule

    once.check()
    if once.rate is not None and data.speed is not None:
        raise SettingInvalid("give either --rate or --speed, not both")
    ask = workload_for(
        context,
        [where],
        once.model,
        once.workload,
        data,
        given.endpoint,
        seed=once.seed,
        rate=1.0 if once.rate is None else once.rate,
        requests=once.num_requests,
        arrivals=once.arrivals,
    )
    schedule = make_schedule(ask)
    return schedule, with_text_scales(given, where, ask)
