"""`model_server`: serve one model on this node; download it; run preflight checks."""

import asyncio
import os

import structlog
import typer

from model_server.lifecycle import ModelServer
from model_server.preflight import check
from model_server.settings import ModelServerSettings, read_model_server_settings
from model_server.weights import bring_model
from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce, configure_logs
from servekit.cli.program import run_program
from servekit.container.program import open_hub, run_container
from servekit.container.startup_progress import StartupProgress
from servekit.timing.clock import SystemClock

log = structlog.get_logger()

app = ProgramApp("model_server", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Run `start` if no command is given.  Settings come from the environment."""
    configure_logs()
    if context.invoked_subcommand is None:
        start_command()


@app.command("start")
def start_command() -> None:
    """Serve MODEL_NAME on PORT; /health is 503 until the engine is up and warm."""
    settings = _settings()
    hub = open_hub(settings)
    run_container(
        settings,
        lambda progress, clock, environ: ModelServer(settings, progress, environ, clock, hub),
        os.environ,
    )


@app.command("download")
def download_command() -> None:
    """Download MODEL_NAME to MODELS_FOLDER, completely or not at all; for a Job."""
    settings = _settings()
    clock = SystemClock()
    model = asyncio.run(
        bring_model(
            settings,
            open_hub(settings),
            StartupProgress(clock),
            environ=os.environ,
            clock=clock,
            report=log.info,
        )
    )
    announce("downloaded", model=model.name, revision=model.revision, folder=str(model.folder))


@app.command("check")
def check_command() -> None:
    """Run preflight checks: engine, device, model and licence, disk space, caches."""
    settings = _settings()
    raise typer.Exit(0 if asyncio.run(_print_findings(settings)) else 1)


async def _print_findings(settings: ModelServerSettings) -> bool:
    fine = True
    async for finding in check(settings, os.environ, open_hub(settings)):
        typer.echo(f"{'ok    ' if finding.ok else 'FAILED'}  {finding.name:<14}{finding.said}")
        fine = fine and finding.ok
    return fine


def _settings() -> ModelServerSettings:
    return read_model_server_settings(os.environ, log.warning)


if __name__ == "__main__":
    run_program(app)
