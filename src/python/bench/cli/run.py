"""The commands `run` and `aiperf`: measure one target, with this client or with aiperf."""

from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import (
    TOKEN_OPTIONS,
    Env,
    OutputOptions,
    RequestOptions,
    SingleLoadOptions,
    TokenLengthOptions,
    Url,
    one_url,
    run_context,
    served_models,
)
from servekit.cli.options import grouped
from servekit.errors.tree import SettingInvalid

if TYPE_CHECKING:
    from bench.loadgen.run_result import LoadResult
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
    *,
    once: SingleLoadOptions,
    tokens: TokenLengthOptions,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Measure one environment or URL.

    Option names of genai-perf and aiperf are accepted where their meaning is the same.
    """
    from bench.experiments.run import measure_one
    from bench.target.arms import Arm

    where = one_url(env, url)
    schedule = _schedule(context, where, once, tokens, upstream)
    given = run_context(
        context, kept, upstream=upstream, chat=once.chat(), stream=once.streaming, workers=workers
    )
    measured = measure_one(Arm(name=env or "url", url=where), schedule, once.users(), given)
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
    tokens: TokenLengthOptions,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Measure one environment or URL with aiperf: the same requests as `run`, the same reports."""
    from bench.experiments.run import measure_by_aiperf
    from bench.target.arms import Arm

    where = one_url(env, url)
    schedule = _schedule(context, where, once, tokens, upstream)
    given = run_context(context, kept, upstream=upstream, chat=once.chat(), stream=once.streaming)
    arm = Arm(name="aiperf", url=where)
    measured = measure_by_aiperf(aiperf, arm, schedule, once.users(), given)
    if measured.partial:
        raise typer.Exit(1)
    _fail_if_nothing_was_answered(measured)


def _schedule(
    context: typer.Context,
    where: str,
    once: SingleLoadOptions,
    tokens: TokenLengthOptions,
    upstream: RequestOptions,
) -> "Schedule":
    from bench.workload.registry import WorkloadSpec, make_schedule, read_shares

    once.check()
    return make_schedule(
        WorkloadSpec(
            workload=_workload(context, once.workload),
            shares=read_shares(once.model or served_models(where, upstream.api_key)),
            requests=once.num_requests,
            rate=1.0 if once.rate is None else once.rate,
            arrivals=once.arrivals,
            seed=once.seed,
            lengths=tokens.lengths(),
        )
    )


def _workload(context: typer.Context, workload: str) -> str:
    """Token lengths on the command line select the synthetic workload, as in genai-perf."""
    names = [name for name in TOKEN_OPTIONS if _was_given(context, name)]
    if not names or workload == "synthetic":
        return workload
    if _was_given(context, "workload"):
        raise SettingInvalid(
            f"--workload {workload} defines its token lengths; omit --isl and --osl, or --workload"
        )
    return "synthetic"


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
