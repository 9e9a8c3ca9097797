"""The commands that measure one upstream: `run`, and `aiperf`, which lets aiperf do it."""

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
    served_models,
    setting,
)
from servekit.cli.options import grouped
from servekit.errors.tree import SettingInvalid

if TYPE_CHECKING:
    from bench.workload.schedule import Schedule


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(grouped(run))
    app.command()(grouped(aiperf))


def run(
    context: typer.Context,
    env: Env = None,
    url: Url = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that send the load.")] = 1,
    *,
    once: SingleLoadOptions,
    tokens: TokenLengthOptions,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Measure one environment or URL.

    Options of genai-perf and aiperf are accepted where they mean the same here.
    """
    from bench.experiments.run import measure_one
    from bench.target.arms import Arm

    where = one_url(env, url)
    schedule = _schedule(context, where, once, tokens, upstream)
    given = setting(
        context, kept, upstream=upstream, chat=once.chat(), stream=once.streaming, workers=workers
    )
    measured = measure_one(Arm(name=env or "url", url=where), schedule, once.users(), given)
    if measured.partial:
        raise typer.Exit(130)


def aiperf(
    context: typer.Context,
    env: Env = None,
    url: Url = None,
    aiperf: Annotated[str, typer.Option(help="The aiperf program.")] = "aiperf",
    *,
    once: SingleLoadOptions,
    tokens: TokenLengthOptions,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Let aiperf measure what `run` would: the same requests, its result read back in."""
    from bench.experiments.run import measure_by_aiperf
    from bench.target.arms import Arm

    where = one_url(env, url)
    schedule = _schedule(context, where, once, tokens, upstream)
    given = setting(context, kept, upstream=upstream, chat=once.chat(), stream=once.streaming)
    arm = Arm(name="aiperf", url=where)
    if measure_by_aiperf(aiperf, arm, schedule, once.users(), given).partial:
        raise typer.Exit(1)


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
    """Whoever asks for token counts, as genai-perf's users do, asks for the synthetic workload."""
    names = [name for name in TOKEN_OPTIONS if _was_given(context, name)]
    if not names or workload == "synthetic":
        return workload
    if _was_given(context, "workload"):
        raise SettingInvalid(
            f"--workload {workload} has token counts of its own; leave out --isl and --osl, or "
            "the workload"
        )
    return "synthetic"


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
