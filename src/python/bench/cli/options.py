"""Options that several commands share, and what they stand for.

Commands import what they need when they run, so that `--help` and mistakes answer at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from servekit.errors.tree import SettingInvalid

if TYPE_CHECKING:
    from bench.results.context import Setting
    from bench.stats.verdict import Judged
    from bench.stats.windowed_metrics import SloLimits
    from bench.workload.generators import TokenLengths

# On the fleet `h100` under the Mooncake trace, queues form now and then at this rate and nothing is
# saturated: the table under "The default rate" in docs/benchmarks/client.md.
DEFAULT_RATE = 32.0

OutputDir = Annotated[
    Path, typer.Option("--output-dir", "--artifact-dir", "--output", help="Where results are kept.")
]
Seed = Annotated[
    int, typer.Option("--seed", "--random-seed", help="Every random choice comes from it.")
]
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
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="NAME or NAME=SHARE; may be repeated; default: all."),
]
Drain = Annotated[bool, typer.Option(help="Wait for an arm's answers before the next one's turn.")]
Env = Annotated[str | None, typer.Option(help="baseline (8080) or managed (8081).")]
Url = Annotated[
    str | None, typer.Option("--url", "-u", "--endpoint", help="Any OpenAI API, instead of --env.")
]


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where results go, and in which forms."""

    output_dir: OutputDir = Path("results")
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Records as Parquet as well; needs pyarrow.")
    ] = False
    png: Annotated[
        bool,
        typer.Option("--png", help="The plots as PNG; needs a Chromium."),
    ] = False
    # genai-perf's, which the seeds' scripts give on machines of every kind.
    generate_plots: Annotated[
        bool, typer.Option("--generate-plots", help="Likewise, if there is a Chromium.")
    ] = False
    browser: Annotated[str, typer.Option(help="The Chromium that draws them.")] = "auto"


@dataclass(frozen=True, slots=True)
class TrafficOptions:
    """What is replayed against every arm, and in which parts."""

    workload: WorkloadName = "mooncake"
    rate: Annotated[float, typer.Option(help="Requests per second, over all models.")] = (
        DEFAULT_RATE
    )
    arrivals: ArrivalShape = "trace"
    parts: Annotated[int, typer.Option(min=1, help="Parts that each arm replays.")] = 4
    part_s: Annotated[float, typer.Option(min=1.0, help="Seconds of a part.")] = 15.0
    warmup_s: Annotated[float, typer.Option(min=0.0, help="Seconds that do not count.")] = 10.0
    fleet: Fleet = "h100"
    seed: Seed = 1


@dataclass(frozen=True, slots=True)
class SingleLoadOptions:
    """A load that one upstream gets once, by genai-perf's and aiperf's names."""

    model: Models = None
    num_requests: Annotated[
        int, typer.Option("--num-requests", "--request-count", min=1, help="Requests to send.")
    ] = 100
    concurrency: Annotated[int, typer.Option(min=1, help="Users of the closed loop.")] = 10
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", "--request-rate", help="Requests per second: an open loop, no --concurrency."
        ),
    ] = None
    arrivals: ArrivalShape = "poisson"
    workload: WorkloadName = "default"
    endpoint_type: Annotated[str, typer.Option(help="completions or chat.")] = "completions"
    streaming: Annotated[bool, typer.Option(help="Ask for a stream.")] = True
    seed: Seed = 1
    backend: Annotated[str, typer.Option(hidden=True, help="genai-perf's.")] = "vllm"

    def check(self) -> None:
        """Raise unless every word is one that there is."""
        if self.endpoint_type not in ("chat", "completions"):
            raise SettingInvalid(
                f"--endpoint-type {self.endpoint_type!r}: there are completions and chat"
            )
        if self.backend != "vllm":
            raise SettingInvalid(
                f"--backend {self.backend!r}: what is measured speaks vLLM's API; leave it out"
            )

    def chat(self) -> bool:
        return self.endpoint_type == "chat"

    def users(self) -> int | None:
        """Users of the closed loop; None for an open one."""
        return self.concurrency if self.rate is None else None


@dataclass(frozen=True, slots=True)
class TokenLengthOptions:
    """The lengths of synthetic prompts and answers, by genai-perf's and aiperf's names."""

    prompt_mean: Annotated[
        float, typer.Option("--synthetic-input-tokens-mean", "--isl", help="Synthetic prompts.")
    ] = 512.0
    prompt_stddev: Annotated[
        float, typer.Option("--synthetic-input-tokens-stddev", "--isl-stddev")
    ] = 128.0
    output_mean: Annotated[
        float, typer.Option("--output-tokens-mean", "--osl", help="Synthetic answers.")
    ] = 256.0
    output_stddev: Annotated[float, typer.Option("--output-tokens-stddev", "--osl-stddev")] = 64.0

    def lengths(self) -> "TokenLengths":
        from bench.workload.generators import TokenLengths

        return TokenLengths(
            self.prompt_mean, self.prompt_stddev, self.output_mean, self.output_stddev
        )


TOKEN_OPTIONS = ("prompt_mean", "prompt_stddev", "output_mean", "output_stddev")


@dataclass(frozen=True, slots=True)
class SloOptions:
    """What a good request keeps; 0 asks for nothing."""

    ttft_ms: Annotated[float, typer.Option(min=0, help="TTFT that a good request keeps.")] = 1000.0
    itl_ms: Annotated[
        float, typer.Option(min=0, help="Time per token that a good request keeps.")
    ] = 50.0
    e2e_ms: Annotated[float, typer.Option(min=0, help="E2E that a good request keeps.")] = 0.0

    def goal(self) -> "SloLimits":
        from bench.stats.windowed_metrics import SloLimits

        return SloLimits(
            ttft_ms=self.ttft_ms or None, itl_ms=self.itl_ms or None, e2e_ms=self.e2e_ms or None
        )


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How requests reach an upstream."""

    timeout_s: Annotated[float, typer.Option(help="Patience with one request.")] = 300.0
    # Never on a command line, where others could read it, and never in a manifest.
    api_key: Annotated[
        str, typer.Option("--api-key", envvar="OPENAI_API_KEY", hidden=True, show_envvar=False)
    ] = ""


@dataclass(frozen=True, slots=True)
class EngineCheckOptions:
    """What the engines of the arms must prove to be."""

    engines: Annotated[
        list[str] | None,
        typer.Option(help="The engines of an arm, URL,URL,…: once for each arm, in order."),
    ] = None
    expect_version: Annotated[
        str | None, typer.Option(help="Refuse to run unless every engine has this version.")
    ] = None
    expect_prefix_caching: Annotated[
        bool | None, typer.Option(help="Refuse to run unless every engine does, or does not.")
    ] = None
    expect_kvcached: Annotated[
        str | None,
        typer.Option(help="candidate or both: which arms must have KVCached; none: no arm may."),
    ] = None
    kvctl: Annotated[str, typer.Option(help="How kvctl is run: 'ssh gpu-host kvctl'.")] = "kvctl"
    kvcached_metrics: Annotated[
        list[str] | None,
        typer.Option(help="Of an arm's engines, from kvcached_engine: URL,URL,…, as --engines."),
    ] = None


def setting(
    context: typer.Context,
    kept: OutputOptions,
    *,
    upstream: RequestOptions | None = None,
    goal: "SloLimits | None" = None,
    chat: bool = False,
    stream: bool = True,
    workers: int = 1,
) -> "Setting":
    """Return what every job is given: how to send, where to print and keep, what was asked.

    Raises:
        SettingInvalid: Parquet or PNG is wanted, and what writes it is missing.
    """
    from rich.console import Console

    from bench.loadgen.session import Endpoint
    from bench.results.context import Setting
    from bench.stats.windowed_metrics import DEFAULT_SLO
    from servekit.client.client import CHAT, COMPLETIONS

    path = CHAT if chat else COMPLETIONS
    asked = upstream or RequestOptions()
    return Setting(
        target=Endpoint(path=path, stream=stream, timeout_s=asked.timeout_s, api_key=asked.api_key),
        goal=goal or DEFAULT_SLO,
        # A file or a pipe has no width; the widest table needs this much.
        console=console if (console := Console()).is_terminal else Console(width=120),
        output_dir=kept.output_dir,
        options=_asked(context),
        workers=workers,
        parquet=_parquet(kept),
        browser=_browser(kept),
    )


def _asked(context: typer.Context) -> dict[str, str]:
    return {
        name: str(value)
        for name, value in context.params.items()
        if value is not None and name != "api_key"
    }


def _parquet(kept: OutputOptions) -> bool:
    from bench.results.parquet import check_parquet

    if kept.parquet:
        check_parquet()
    return kept.parquet


def _browser(kept: OutputOptions) -> str:
    from bench.report.png import find_browser

    if kept.png:
        return find_browser(kept.browser)
    if not kept.generate_plots:
        return ""
    try:
        return find_browser(kept.browser)
    except SettingInvalid:
        typer.echo("no Chromium: the plots are in report.html only", err=True)
        return ""


def one_url(env: str | None, url: str | None) -> str:
    """Return the one URL that was asked for.

    Raises:
        SettingInvalid: none was, or two were, or there is no such environment.
    """
    from bench.target.arms import environment_url

    if (env is None) == (url is None):
        raise SettingInvalid("give either --env baseline|managed or --url http://host:port")
    return url if url is not None else environment_url(env or "")


def served_models(url: str, api_key: str = "") -> list[str]:
    """Return the models at *url*.

    Raises:
        EngineUnreachable: nobody answers there.
    """
    import uvloop

    from bench.target.arms import models_at

    return list(uvloop.run(models_at(url, api_key)))


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
