"""`cloudrun`: serve one model from one container; save and restore its compile cache."""

import os
import sys
from dataclasses import dataclass
from typing import Annotated, ClassVar

import structlog
import typer

from cloudrun import service
from cloudrun.compile_cache import capture, manifests, restore
from cloudrun.compile_cache import read_key as read_compile_key
from cloudrun.fetch import fetch_model
from cloudrun.gpus import GPUS
from cloudrun.lifecycle import CloudRun
from cloudrun.service import CloudRunService, read_secrets, read_variables
from cloudrun.settings import CloudRunSettings, read_cloudrun_settings
from cloudrun.stores import open_store
from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce, configure_logs
from servekit.cli.options import grouped
from servekit.cli.program import run_program
from servekit.container.program import open_hub, run_container

log = structlog.get_logger()

app = ProgramApp("cloudrun", no_args_is_help=False)
cache_app = ProgramApp("cloudrun", help="Save and restore compile caches.")
app.add_typer(cache_app, name="cache")

StoreName = Annotated[str, typer.Argument(help="Folder, or gs://bucket/prefix.")]


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Run `serve` if no command is given.  Settings come from the environment."""
    configure_logs()
    if context.invoked_subcommand is None:
        serve_command()


@app.command("serve")
def serve_command() -> None:
    """Serve MODEL_NAME on PORT; /health is 503 until the engine is up and warm."""
    settings = _settings()
    hub = open_hub(settings)
    run_container(
        settings,
        lambda progress, _, environ: CloudRun(settings, progress, environ, hub),
        os.environ,
    )


@app.command("download")
def download_command() -> None:
    """Download MODEL_NAME to HF_HOME, completely or not at all; for image builds."""
    settings = _settings()
    model = fetch_model(
        settings.model_name, settings.model_revision, settings.hf_home, open_hub(settings)
    )
    announce("downloaded", model=model.name, revision=model.revision, folder=str(model.folder))


@dataclass(frozen=True)
class ScalingOptions:
    """How many instances, and how much each is given."""

    HEADING: ClassVar[str] = "Scaling"

    max_instances: Annotated[int, typer.Option(min=1, help="Max. instances.")] = (
        service.MAX_INSTANCES
    )
    min_instances: Annotated[
        int, typer.Option(min=0, help="Instances that are kept without load.")
    ] = service.MIN_INSTANCES
    concurrency: Annotated[
        int, typer.Option(min=1, max=1000, help="Max concurrent requests per instance.")
    ] = service.CONCURRENCY


@dataclass(frozen=True)
class HardwareOptions:
    """What one instance has."""

    HEADING: ClassVar[str] = "Hardware"

    gpu: Annotated[str, typer.Option(help=f"GPU type: {', '.join(GPUS)}.")] = service.GPU
    cpu: Annotated[
        int | None, typer.Option(min=1, help="CPUs per instance. [default: by the GPU]")
    ] = None
    memory_gib: Annotated[
        int | None, typer.Option(min=1, help="Memory per instance (GiB). [default: by the GPU]")
    ] = None


@dataclass(frozen=True)
class ContainerOptions:
    """What the container is given."""

    HEADING: ClassVar[str] = "Container"

    compile_cache_bucket: Annotated[
        str, typer.Option(help="Bucket with compile caches, mounted read-only at /compile-cache.")
    ] = ""
    service_account: Annotated[
        str, typer.Option(help="Service account that the service runs as.")
    ] = ""
    env: Annotated[
        list[str] | None,
        typer.Option(help="Environment variable, NAME=VALUE; no secrets. Repeatable."),
    ] = None
    secret: Annotated[
        list[str] | None,
        typer.Option(help="Variable from Secret Manager, NAME=SECRET[:VERSION]. Repeatable."),
    ] = None


@app.command("manifest")
@grouped
def manifest_command(
    scaling: ScalingOptions,
    hardware: HardwareOptions,
    container: ContainerOptions,
    image: Annotated[str, typer.Option(help="Image, with its tag or digest.")],
    name: Annotated[str, typer.Option(help="Name of the service.")] = service.NAME,
) -> None:
    """Print the service for `gcloud run services replace`."""
    described = CloudRunService(
        image=image,
        name=name,
        min_instances=scaling.min_instances,
        max_instances=scaling.max_instances,
        concurrency=scaling.concurrency,
        gpu=hardware.gpu,
        cpu=hardware.cpu,
        memory_gib=hardware.memory_gib,
        compile_cache_bucket=container.compile_cache_bucket,
        service_account=container.service_account,
        variables=read_variables(container.env or []),
        secrets=read_secrets(container.secret or []),
    )
    sys.stdout.write(described.to_yaml())


@cache_app.command("capture")
def capture_command(to: StoreName) -> None:
    """Save the compile cache of the engine that runs here, or ran."""
    manifest = capture(_settings().vllm_cache_root, open_store(to, os.environ))
    announce(
        "captured", digest=manifest.key.digest, files=manifest.files, bytes_unpacked=manifest.size
    )


@cache_app.command("restore")
def restore_command(source: StoreName) -> None:
    """Restore the compile cache for the engine that ran here last; `serve` does so by itself."""
    root = _settings().vllm_cache_root
    key = read_compile_key(root)
    manifest = restore(root, key, open_store(source, os.environ))
    if manifest is None:
        announce("nothing to restore", digest=key.digest)
        raise typer.Exit(1)
    announce("restored", digest=key.digest, files=manifest.files)


@cache_app.command("inspect")
def inspect_command(source: StoreName) -> None:
    """List saved compile caches and what each is for."""
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
