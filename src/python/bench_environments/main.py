"""`bench-environments`: start and stop the benchmark's environments on this machine."""

import asyncio
import math
import os
import shlex
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer
from rich.console import Console

from bench_environments import lifecycle
from bench_environments.compose import compose_text
from bench_environments.deployment import ENVIRONMENTS, EngineKind, environment_named
from bench_environments.docker import starter
from bench_environments.env_file import check_env_file, read_variables
from bench_environments.experiment import Experiment, ExperimentOptions
from bench_environments.generated import deployment_of, generated_files
from bench_environments.gpu_log import GPU_LOG_COMMAND
from bench_environments.lifecycle import DeployOptions, Machine
from bench_environments.plan import load_plan
from bench_environments.started import Launcher
from servekit.cli.app import ProgramApp
from servekit.cli.options import grouped
from servekit.cli.program import run_program
from servekit.cli.server import run_until_stopped, until_stopped
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import load_fleet
from servekit.launch.modules import environ_of_modules, require_module
from servekit.timing.clock import SystemClock

app = ProgramApp(
    "bench_environments",
    no_args_is_help=True,
    help="Start and stop the environments of the benchmark with Docker Compose.",
)

# An hour: the first start downloads models of 125 GB.
_TIMEOUT_S = 3600.0
_REMEDY = "run experiments from a checkout, or install its wheel as well"

DryRun = Annotated[bool, typer.Option(help="Print the actions without doing them.")]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        help="File of environment variables. [default: src/docker/bench_ENVIRONMENT/.env]",
    ),
]


@dataclass(frozen=True)
class EnvironmentOptions:
    """What runs in an environment."""

    HEADING: ClassVar[str] = "Environment"

    fleet: Annotated[str, typer.Option(help="Built-in fleet name, or path of a fleet file.")] = (
        "h100"
    )
    engine: Annotated[
        EngineKind | None,
        typer.Option(
            help="Engine of every replica. [default: vllm; kvcached for managed on GPUs]",
        ),
    ] = None
    port: Annotated[
        int | None,
        typer.Option(
            help="Port of the load balancer. [default: 8080 for baseline, 8081 for managed]"
        ),
    ] = None
    env_file: EnvFile = None


@dataclass(frozen=True)
class StartOptions:
    """How an environment is started."""

    HEADING: ClassVar[str] = "Start"

    timeout_s: Annotated[
        float, typer.Option(help="Max time until every container is ready (s).")
    ] = _TIMEOUT_S
    keep: Annotated[
        bool, typer.Option(help="Keep the containers of a failed start for inspection.")
    ] = False
    dry_run: DryRun = False


@app.command()
@grouped
def deploy(
    environment: Annotated[str, typer.Argument(help="Environment: baseline or managed.")],
    what: EnvironmentOptions,
    how: StartOptions,
) -> None:
    """Start an environment and wait until every container is ready.

    Running it again changes nothing.
    """
    if not (math.isfinite(how.timeout_s) and how.timeout_s > 0):
        raise SettingInvalid(f"--timeout-s is {how.timeout_s}; it must be above 0")
    chosen = environment_named(environment)
    deployment = deployment_of(chosen, what.fleet, what.engine, what.port)
    default_file = _default_env_file(environment)
    variables = check_env_file(what.env_file or default_file, deployment, os.environ)
    if how.dry_run:
        given = ("--env-file", str(variables)) if variables else ()
        start = ("docker", "compose", "--project-name", chosen.folder, *given, "--file", "-")
        sys.stdout.write(compose_text(deployment))
        sys.stderr.write(f"would run: {' '.join(start)} up --detach\n")
        return
    machine = _machine()
    lifecycle.deploy(deployment, DeployOptions(variables, how.timeout_s, how.keep), machine)
    lifecycle.print_line(machine, f"{environment} serves at http://127.0.0.1:{deployment.port}")


@app.command()
def teardown(
    environment: Annotated[str, typer.Argument(help="Environment: baseline, managed or all.")],
    remove_model_cache: Annotated[
        bool,
        typer.Option(help="Also remove the downloaded models."),
    ] = False,
    env_file: EnvFile = None,
    dry_run: DryRun = False,
) -> None:
    """Stop and remove an environment.  Downloaded models are kept by default."""
    every = environment == "all"
    chosen = list(ENVIRONMENTS.values()) if every else [environment_named(environment)]
    cache = _model_cache(env_file or _default_env_file(chosen[0].name))
    machine = _machine()
    if dry_run:
        for one in chosen:
            for container in machine.docker.containers(one):
                lifecycle.print_line(machine, f"would remove {container.name}")
        if remove_model_cache:
            lifecycle.print_line(machine, f"would remove {cache}/hub")
        return
    lifecycle.teardown(chosen, machine)
    if remove_model_cache:
        lifecycle.remove_cache(cache, machine)


@app.command()
def status() -> None:
    """Show the containers of all environments."""
    lifecycle.status(_machine())


@app.command()
def generate(
    root: Annotated[Path, typer.Option(help="Root folder of the repository.")] = Path(),
    check: Annotated[
        bool, typer.Option(help="Write nothing; exit with 1 if a file is out of date.")
    ] = False,
) -> int:
    """Write the Compose files and .env.example of both environments, from the fleet files."""
    if not (root / "BUILD_ROOT").is_file():
        raise SettingInvalid(f"{root.resolve()} is not the repository root; use --root")
    stale = [name for name, text in generated_files().items() if _read(root / name) != text]
    for name in stale:
        sys.stdout.write(f"{'stale' if check else 'wrote'} {name}\n")
        if not check:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(generated_files()[name])
    return 1 if check and stale else 0


@dataclass(frozen=True)
class MachineOptions:
    """How engines are started here."""

    HEADING: ClassVar[str] = "Engines"

    vllm: Annotated[str, typer.Option(help="Command that starts vLLM, with its environment.")] = (
        "vllm"
    )
    vllm_kvcached: Annotated[
        str | None,
        typer.Option(help="Command that starts vLLM where KVCached is. [default: as --vllm]"),
    ] = None
    models_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with a folder of weights for each model's short name. [default: the hub]"
        ),
    ] = None
    load_format: Annotated[
        str | None, typer.Option(help="Load format of vLLM; dummy = random weights.")
    ] = None
    swap_gpus: Annotated[
        bool,
        typer.Option(
            "--swap-gpus", help="Give the first kind of engine the GPUs that the last one had."
        ),
    ] = False
    gpu_log: Annotated[
        str, typer.Option(hidden=True, help="Command that prints a line for each GPU.")
    ] = GPU_LOG_COMMAND
    gpu_memory: Annotated[
        str, typer.Option(hidden=True, help="Command that prints the used memory of each GPU.")
    ] = ""


@app.command()
@grouped
def experiment(
    plan: Annotated[str, typer.Argument(help="Built-in plan name, or path of a plan file.")],
    machine: MachineOptions,
    output_dir: Annotated[Path, typer.Option(help="Directory of the results.")],
    time_limit_s: Annotated[
        float, typer.Option(help="The call ends after so long, with what it has (s).")
    ] = 3600.0,
) -> None:
    """Compare load balancers before several kinds of engine, as processes on this machine.

    Starts everything, proves, warms up, measures and stops.  A call with the same --output-dir
    goes on where the last one ended.
    """
    if not (math.isfinite(time_limit_s) and time_limit_s > 0):
        raise SettingInvalid(f"--time-limit-s is {time_limit_s}; it must be above 0")
    for module in (
        "bench.runner",  # pants: no-infer-dep
        "loadbalancer.managed",  # pants: no-infer-dep
        "kvcached_engine.main",  # pants: no-infer-dep
    ):  # pants: no-infer-dep
        require_module(module, _REMEDY)
    planned = load_plan(plan)
    fleet = load_fleet(planned.fleet)
    commands = {kind: tuple(shlex.split(machine.vllm)) for kind in EngineKind}
    if machine.vllm_kvcached is not None:
        commands[EngineKind.kvcached] = tuple(shlex.split(machine.vllm_kvcached))
    options = ExperimentOptions(
        folder=output_dir,
        vllm=commands,
        gpu_log=machine.gpu_log,
        gpu_memory=machine.gpu_memory,
        models="" if machine.models_dir is None else str(machine.models_dir.resolve()),
        load_format=machine.load_format,
        time_limit_s=time_limit_s,
        swap=machine.swap_gpus,
    )
    launcher = Launcher(environ_of_modules(os.environ), SystemClock())
    undone: list[int] = []

    async def run(stop: asyncio.Event) -> None:
        begun = Experiment(planned, fleet, options, launcher, print_now)
        await until_stopped(_note(begun.run(), undone), stop)

    run_until_stopped(run)
    if not undone or undone[0]:
        raise typer.Exit(1)


async def _note(work: Coroutine[None, None, int], found: list[int]) -> None:
    found.append(await work)


def print_now(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _machine() -> Machine:
    # A pipe or a file has no width; the table needs this much.
    console = console if (console := Console()).is_terminal else Console(width=140)
    return Machine(starter(os.environ), SystemClock(), console)


def _default_env_file(environment: str) -> Path:
    return Path("src/docker") / environment_named(environment).folder / ".env"


def _model_cache(env_file: Path) -> Path:
    given = read_variables(env_file) if env_file.is_file() else {}
    default = "/mnt/model-cache/huggingface"
    return Path(os.environ.get("MODEL_CACHE") or given.get("MODEL_CACHE") or default)


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def main() -> None:
    """The command `bench-environments`."""
    run_program(app)


if __name__ == "__main__":
    main()
