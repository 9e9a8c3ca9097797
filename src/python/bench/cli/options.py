"""Options that several commands share, and what they stand for.

Commands import what they need when they run, so that `--help` and mistakes answer at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer
from msgspec import structs

from bench.cli.request_options import RequestOptions
from servekit.cli.options import old_name
from servekit.errors.tree import SettingInvalid

if TYPE_CHECKING:
    from bench.results.context import RunContext
    from bench.stats.verdict import ComparedRun
    from bench.stats.windowed_metrics import SloLimits
    from bench.workload.schedule import PartLayout

# On the fleet `h100` under the Mooncake trace, queues form now and then at this rate and nothing is
# saturated: the table under "The default rate" in docs/benchmarks/client.md.
DEFAULT_RATE = 32.0

# Nine can carry a verdict on eight headline metrics; so many find a slow-down of 10 % nearly
# always: docs/benchmarks/verdict.md.
DEFAULT_TURNS = 16

# What a help text says of each choice stands in one place.
_ARRIVALS = "trace, constant, poisson, gamma:CV, ramp:END_RATE or burst:SIZE"
_WORKLOADS = "mooncake, default, synthetic, shared-prefix, multi-turn, or the path of a file"
_LOAD, _RESULTS, _TARGET = "Load", "Results", "Target"

OutputDir = Annotated[
    Path,
    typer.Option(
        "--output-dir",
        "--artifact-dir",
        "--output",
        help="Directory of the results.",
        rich_help_panel=_RESULTS,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", "--random-seed", help="Random seed.", rich_help_panel=_LOAD)
]
WorkloadName = Annotated[str, typer.Option(help=f"Workload: {_WORKLOADS}.", rich_help_panel=_LOAD)]
ArrivalShape = Annotated[
    str, typer.Option(help=f"Arrival process: {_ARRIVALS}.", rich_help_panel=_LOAD)
]
FailOn = Annotated[
    str | None,
    typer.Option(
        metavar="worse",
        help="'worse': exit with status 1 if the candidate is worse or mixed, or the run invalid.",
        rich_help_panel=_RESULTS,
    ),
]
Fleet = Annotated[
    str, typer.Option(help="Built-in fleet name or path of a fleet file.", rich_help_panel=_TARGET)
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="Model as NAME or NAME=SHARE; repeatable. Default: all models that are served.",
        rich_help_panel=_LOAD,
    ),
]
ArmNames = Annotated[
    str | None,
    typer.Option(
        "--names",
        help="Names of the arms in all results, comma-separated, in their order.",
        rich_help_panel=_RESULTS,
    ),
]
Drain = Annotated[
    bool,
    typer.Option(
        help="Wait until all responses of one arm are complete before the next arm's turn.",
        rich_help_panel=_LOAD,
    ),
]
ResetPrefixCache = Annotated[
    bool,
    typer.Option(
        "--reset-prefix-cache",
        help="Empty the prefix caches of the engines (--engines, VLLM_SERVER_DEV_MODE=1) before "
        "each turn of an arm: for arms that share engines.",
        rich_help_panel=_LOAD,
    ),
]
WarmupRequests = Annotated[
    int,
    typer.Option(
        "--warmup-requests",
        "--warmup-request-count",
        min=0,
        help="Requests sent before the run and excluded from its results.",
        rich_help_panel=_LOAD,
    ),
]
Env = Annotated[
    str | None,
    typer.Option(
        help="Local environment: baseline (port 8080) or managed (port 8081).",
        rich_help_panel=_TARGET,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        "-u",
        "--endpoint",
        help="Base URL of an OpenAI-compatible server, instead of --env.",
        rich_help_panel=_TARGET,
    ),
]
Policies = Annotated[
    str,
    typer.Option(
        help="Routing policies, comma-separated; 'all' for every policy.", rich_help_panel=_TARGET
    ),
]
Gpu = Annotated[
    str | None,
    typer.Option(help="GPU type, instead of the fleet file's.", rich_help_panel=_TARGET),
]
TraceName = Annotated[
    str,
    typer.Option(
        help=f"Trace or schedule file, or a workload: {_WORKLOADS}.", rich_help_panel=_LOAD
    ),
]
TraceRate = Annotated[
    float | None,
    typer.Option(help="Requests per second, instead of the trace's rate.", rich_help_panel=_LOAD),
]
MaxRequests = Annotated[
    int | None,
    typer.Option(
        "--max-requests",
        old_name("--requests"),
        help="Max number of requests taken from the trace.",
        rich_help_panel=_LOAD,
    ),
]
PollInterval = Annotated[
    float, typer.Option(help="Interval between polls of /metrics (s).", rich_help_panel=_TARGET)
]
JsonFile = Annotated[
    Path | None,
    typer.Option(help="Also write the figures to this JSON file.", rich_help_panel=_RESULTS),
]


def read_share(given: str | float) -> float:
    """Read `5%` or `0.05`."""
    text = str(given)
    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise SettingInvalid(f"--min-effect must be a share below 1, as 5% or 0.05, not {text!r}")
    return value


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where results go, and in which formats."""

    HEADING: ClassVar[str] = _RESULTS
    output_dir: OutputDir = Path("results")
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Also write records as Parquet (requires pyarrow).")
    ] = False
    png: Annotated[
        bool, typer.Option("--png", help="Also write PNG plots (requires Chromium).")
    ] = False
    # genai-perf's, which the original scripts give on machines of every kind.
    generate_plots: Annotated[
        bool,
        typer.Option("--generate-plots", help="Also write PNG plots if Chromium is installed."),
    ] = False
    browser: Annotated[
        str, typer.Option(help="Path of the Chromium program for PNG plots, or 'auto'.")
    ] = "auto"


@dataclass(frozen=True, slots=True)
class TrafficOptions:
    """The load that every arm gets, and its division into parts."""

    HEADING: ClassVar[str] = _LOAD
    workload: WorkloadName = "mooncake"
    rate: Annotated[float, typer.Option(help="Requests per second, all models together.")] = (
        DEFAULT_RATE
    )
    arrivals: ArrivalShape = "trace"
    parts: Annotated[
        int, typer.Option(min=1, help="Number of turns that each arm takes, in random order.")
    ] = DEFAULT_TURNS
    part_s: Annotated[float, typer.Option(min=1.0, help="Duration of each turn (s).")] = 3.0
    steady_s: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Duration of each arm's first turn (s), whose plateau gives throughput; 0: as the "
            "others.",
        ),
    ] = 16.0
    warmup_s: Annotated[
        float,
        typer.Option(min=0.0, help="Warm-up duration of each arm (s), excluded from the results."),
    ] = 5.0
    fleet: Fleet = "h100"
    seed: Seed = 1

    def shape(
        self, verdict: "VerdictOptions | None" = None, *, drain: bool = False
    ) -> "PartLayout":
        """Return the turns of two arms; with `--until-sure` as many as there is time for."""
        from bench.stats.looks import looks_of
        from bench.workload.schedule import PartLayout

        shape = PartLayout(
            parts=self.parts,
            part_s=self.part_s,
            warmup_s=self.warmup_s,
            drain=drain,
            steady_s=self.steady_s,
        )
        if verdict is None or not verdict.until_sure:
            return shape
        first_s = max(self.part_s, self.steady_s)
        for_each_s = verdict.max_minutes * 60.0 / 2.0
        most = 1 + max(0, int((for_each_s - first_s) / self.part_s))
        return structs.replace(shape, parts=most, looks=looks_of(most))


@dataclass(frozen=True, slots=True)
class VerdictOptions:
    """When a difference counts, and when the run may end."""

    HEADING: ClassVar[str] = "Verdict"
    min_effect: Annotated[
        float,
        typer.Option(
            parser=read_share,
            metavar="SHARE",
            help="Min. difference that counts: 5% or 0.05 of the baseline; of metrics in percent, "
            "so many points.",
        ),
    ] = 0.0
    until_sure: Annotated[
        bool,
        typer.Option(
            "--until-sure",
            help="End at the first of a few planned looks that shows a difference, after "
            "--max-minutes at the latest; --parts is ignored.",
        ),
    ] = False
    max_minutes: Annotated[
        float,
        typer.Option(min=0.1, help="Max duration of all turns with --until-sure (minutes)."),
    ] = 10.0


@dataclass(frozen=True, slots=True)
class SingleLoadOptions:
    """The load of one target, with genai-perf's and aiperf's option names."""

    HEADING: ClassVar[str] = _LOAD
    model: Models = None
    num_requests: Annotated[
        int,
        typer.Option(
            "--num-requests", "--request-count", min=1, help="Number of requests to send."
        ),
    ] = 100
    concurrency: Annotated[
        int,
        typer.Option(min=1, help="Concurrent requests of a closed loop; ignored with --rate."),
    ] = 10
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", "--request-rate", help="Requests per second of an open loop. Default: closed."
        ),
    ] = None
    arrivals: ArrivalShape = "poisson"
    workload: WorkloadName = "default"
    seed: Seed = 1
    backend: Annotated[str, typer.Option(hidden=True, help="genai-perf's.")] = "vllm"

    def check(self) -> None:
        """Raise unless every choice is a known one."""
        if self.backend != "vllm":
            raise SettingInvalid(f"--backend must be 'vllm', not {self.backend!r}; omit the option")

    def users(self, speed: float | None) -> int | None:
        """Concurrent requests of the closed loop; None for an open one, at a rate or at the *speed*
        of a trace."""
        return self.concurrency if self.rate is None and speed is None else None


@dataclass(frozen=True, slots=True)
class SloOptions:
    """The limits that a request must meet to count as goodput; 0 sets no limit."""

    HEADING: ClassVar[str] = "SLO (for goodput)"
    ttft_ms: Annotated[
        float,
        typer.Option(
            "--slo-ttft-ms",
            old_name("--ttft-ms"),
            min=0,
            help="SLO: max time to first token (ms); 0 = no limit.",
        ),
    ] = 1000.0
    itl_ms: Annotated[
        float,
        typer.Option(
            "--slo-tpot-ms",
            old_name("--itl-ms"),
            min=0,
            help="SLO: max mean time per output token of a request (ms); 0 = no limit.",
        ),
    ] = 50.0
    e2e_ms: Annotated[
        float,
        typer.Option(
            "--slo-e2e-ms",
            old_name("--e2e-ms"),
            min=0,
            help="SLO: max end-to-end latency (ms); 0 = no limit.",
        ),
    ] = 0.0

    def goal(self) -> "SloLimits":
        from bench.stats.windowed_metrics import SloLimits

        return SloLimits(
            ttft_ms=self.ttft_ms or None, itl_ms=self.itl_ms or None, e2e_ms=self.e2e_ms or None
        )


@dataclass(frozen=True, slots=True)
class EngineCheckOptions:
    """What the engines of the arms must be."""

    HEADING: ClassVar[str] = "Engine checks"
    engines: Annotated[
        list[str] | None,
        typer.Option(
            help="Engine URLs of one arm, comma-separated; give it once per arm, in order."
        ),
    ] = None
    expect_version: Annotated[
        str | None, typer.Option(help="Fail unless every engine has this version.")
    ] = None
    expect_prefix_caching: Annotated[
        bool | None,
        typer.Option(help="Fail unless prefix caching is enabled (or disabled) on every engine."),
    ] = None
    expect_kvcached: Annotated[
        str | None,
        typer.Option(
            help="Fail unless KVCached is enabled on exactly these arms: candidate, both or none."
        ),
    ] = None
    kvctl: Annotated[
        str,
        typer.Option(
            help="Command that runs kvctl on the engines' host, e.g. 'ssh gpu-host kvctl'."
        ),
    ] = "kvctl"
    kvcached_metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="Metrics URLs of kvcached_engine for one arm, separated by commas; give it once "
            "per arm."
        ),
    ] = None


def run_context(
    context: typer.Context,
    kept: OutputOptions,
    *,
    upstream: RequestOptions | None = None,
    goal: "SloLimits | None" = None,
    min_effect: float = 0.0,
    warmup_requests: int = 0,
    workers: int = 1,
) -> "RunContext":
    """Return what every job is given: how to send, where to print and keep, what was asked.

    Raises:
        SettingInvalid: Parquet or PNG is wanted, and what writes it is missing; or an option of
            the requests cannot be sent.
    """
    from rich.console import Console

    from bench.results.context import RunContext
    from bench.stats.windowed_metrics import DEFAULT_SLO

    return RunContext(
        endpoint=(upstream or RequestOptions()).endpoint(),
        goal=goal or DEFAULT_SLO,
        min_effect=min_effect,
        warmup_requests=warmup_requests,
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
        name: _masked(value) if name == "header" else str(value)
        for name, value in context.params.items()
        if value is not None and name != "api_key"
    }


def _masked(headers: list[str]) -> str:
    """Names alone: a header may be a key, and results are passed on."""
    return ", ".join(f"{header.partition(':')[0]}: …" for header in headers)


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
        typer.echo("Chromium not found; plots are only in report.html", err=True)
        return ""


def one_url(env: str | None, url: str | None) -> str:
    """Return the one URL that was asked for.

    Raises:
        SettingInvalid: none was, or two were, or there is no such environment.
    """
    from bench.target.arms import environment_url

    if (env is None) == (url is None):
        raise SettingInvalid(
            "give either --env baseline|managed or --url http://host:port, not both"
        )
    return url if url is not None else environment_url(env or "")


def check_fail_on(fail_on: str | None) -> None:
    """Raise unless *fail_on* is a known value."""
    if fail_on not in (None, "worse"):
        raise SettingInvalid(f"--fail-on must be 'worse', not {fail_on!r}")


def exit_as(compared: "ComparedRun", fail_on: str | None) -> None:
    """End with 130 if it was stopped, with 1 where `--fail-on worse` says so."""
    if compared.run.partial:
        raise typer.Exit(130)
    if fail_on and (
        compared.comparison.verdict in ("worse", "mixed") or not compared.validity.valid
    ):
        raise typer.Exit(1)
