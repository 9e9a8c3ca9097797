"""`cloudrun`: serve one model from one container; keep and put back its compile cache."""

import os
import sys
from typing import Annotated

import structlog
import typer

from cloudrun import service
from cloudrun.compile_cache import capture, manifests, restore
from cloudrun.compile_cache import read_key as read_compile_key
from cloudrun.fetch import fetch_model
from cloudrun.lifecycle import CloudRun
from cloudrun.service import CloudRunService, read_variables
from cloudrun.settings import CloudRunSettings, read_cloudrun_settings
from cloudrun.stores import open_store
from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce, configure_logs
from servekit.cli.program import run_program
from servekit.container.program import open_hub, run_container

log = structlog.get_logger()

app = ProgramApp("cloudrun", no_args_is_help=False)
cache_app = ProgramApp("cloudrun", help="Keep a compile cache, and put it back.")
app.add_typer(cache_app, name="cache")

StoreName = Annotated[str, typer.Argument(help="a folder, or gs://bucket/prefix")]


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Serve, unless a command says otherwise.  Settings come from the environment."""
    configure_logs()
    if context.invoked_subcommand is None:
        serve_command()


@app.command("serve")
def serve_command() -> None:
    """Serve MODEL_NAME on PORT: 503 until it is up and warm, then every byte."""
    settings = _settings()
    hub = open_hub(settings)
    run_container(settings, lambda progress, _: CloudRun(settings, progress, os.environ, hub))


@app.command("download")
def download_command() -> None:
    """Bring MODEL_NAME into HF_HOME, whole or not at all; for the building of an image."""
    settings = _settings()
    model = fetch_model(
        settings.model_name, settings.model_revision, settings.hf_home, open_hub(settings)
    )
    announce("downloaded", model=model.name, revision=model.revision, folder=str(model.folder))


@app.command("manifest")
def manifest_command(
    image: Annotated[str, typer.Option(help="with its tag or digest")],
    name: Annotated[str, typer.Option(help="of the service")] = service.NAME,
    max_instances: Annotated[int, typer.Option(min=1)] = service.MAX_INSTANCES,
    min_instances: Annotated[int, typer.Option(min=0)] = service.MIN_INSTANCES,
    concurrency: Annotated[int, typer.Option(min=1, max=1000)] = service.CONCURRENCY,
    gpu: Annotated[str, typer.Option(help="nvidia-l4 and others")] = service.GPU,
    compile_cache_bucket: Annotated[str, typer.Option(help="mounted read-only")] = "",
    service_account: Annotated[str, typer.Option(help="that the service runs as")] = "",
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, repeatable")] = None,
) -> None:
    """Print the service for `gcloud run services replace`."""
    described = CloudRunService(
        image=image,
        name=name,
        min_instances=min_instances,
        max_instances=max_instances,
        concurrency=concurrency,
        gpu=gpu,
        compile_cache_bucket=compile_cache_bucket,
        service_account=service_account,
        variables=read_variables(env or []),
    )
    sys.stdout.write(described.to_yaml())


@cache_app.command("capture")
def capture_command(to: StoreName) -> None:
    """Keep the compile cache of the engine that runs here, or ran."""
    manifest = capture(_settings().vllm_cache_root, open_store(to, os.environ))
    announce(
        "captured", digest=manifest.key.digest, files=manifest.files, bytes_unpacked=manifest.size
    )


@cache_app.command("restore")
def restore_command(source: StoreName) -> None:
    """Put back the compile cache for the engine that ran here last; `serve` does so by itself."""
    root = _settings().vllm_cache_root
    key = read_compile_key(root)
    manifest = restore(root, key, open_store(source, os.environ))
    if manifest is None:
        announce("nothing to restore", digest=key.digest)
        raise typer.Exit(1)
    announce("restored", digest=key.digest, files=manifest.files)


@cache_app.command("inspect")
def inspect_command(source: StoreName) -> None:
    """Say what is kept, and for what."""
    for manifest in manifests(open_store(source, os.environ)):
        key = manifest.key
        announce(
            "compile cache",
            digest=key.digest,
            gpu_arch=key.gpu_arch,
            vllm=key.vllm,
            torch=key.torch,
            model=key.model,
            flags=list(key.flags),
            variables=key.variables,
            files=manifest.files,
            bytes_unpacked=manifest.size,
        )


def _settings() -> CloudRunSettings:
    return read_cloudrun_settings(os.environ, log.warning)


if __name__ == "__main__":
    run_program(app)
