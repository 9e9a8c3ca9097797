"""Run terraform on one of our configurations, with providers that have a schema and no API.

    pants run tests/terraform:offline -- src/terraform/aws_cluster validate
    pants run tests/terraform:offline -- src/terraform/aws_cluster plan

Needs no network, no account and no state: the configuration is copied, and the copy keeps its
state in a file.  `validate`, `test` (with mock_provider) and `plan` work; an apply is refused.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from servekit.cli.program import run_program
from servekit.errors.tree import SettingInvalid
from tests.terraform.provider import serving
from tests.terraform.schemas import narrowed, provider_names, read_schema

MISSING = (
    "terraform is not on the PATH, so no configuration was checked; install Terraform 1.11 or "
    "newer (https://developer.hashicorp.com/terraform/install)"
)

# Where aws_cluster takes the nodes' scripts from, beside the folder of the configurations.
CLUSTER_SCRIPTS = Path("kubernetes", "cluster")

_LOCAL_BACKEND = 'terraform {\n  backend "local" {}\n}\n'

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a terraform command ended.

    Attributes:
        text: what it printed, on both streams.
    """

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class OfflineTerraform:
    """A copy of a configuration, initialised, with its providers at hand."""

    folder: Path
    environ: Mapping[str, str]

    def run(self, *arguments: str) -> Outcome:
        done = subprocess.run(  # noqa: S603
            ["terraform", *arguments],  # noqa: S607
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)


@contextmanager
def offline(
    source: Path, environ: Mapping[str, str], *, made_up: bool = False
) -> Iterator[OfflineTerraform]:
    """Copy the configuration in *source* and initialise the copy.

    With *made_up*, a plan has made-up ids in place of values that only an apply would know.

    Raises:
        SettingInvalid: *source* is no configuration, or it cannot be initialised.
    """
    texts = [path.read_text() for path in sorted(source.rglob("*.tf*")) if path.is_file()]
    if not texts:
        raise SettingInvalid(f"{source} holds no *.tf file; name a folder of src/terraform")
    schemas = {name: narrowed(read_schema(name), texts) for name in provider_names()}
    # A short path: the name of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tf") as scratch:
        copy = Path(scratch, "terraform", source.resolve().name)
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
        scripts = source.resolve().parents[1] / CLUSTER_SCRIPTS
        if scripts.is_dir():
            shutil.copytree(scripts, Path(scratch, CLUSTER_SCRIPTS))
        (copy / "backend_override.tf").write_text(_LOCAL_BACKEND)
        with serving(schemas, Path(scratch), made_up=made_up) as attached:
            terraform = OfflineTerraform(copy, _environ(environ, attached))
            started = terraform.run("init", "-input=false", "-no-color")
            if started.code:
                raise SettingInvalid(f"{source} cannot be initialised: {started.text}")
            yield terraform


def _environ(environ: Mapping[str, str], attached: str) -> dict[str, str]:
    """Leave out what would make a result depend on whose machine it is."""
    kept = {name: environ[name] for name in ("PATH", "HOME") if name in environ}
    return {
        **kept,
        "CHECKPOINT_DISABLE": "1",
        "TF_IN_AUTOMATION": "1",
        "TF_CLI_CONFIG_FILE": os.devnull,
        "TF_REATTACH_PROVIDERS": attached,
    }


@app.command(context_settings={"ignore_unknown_options": True})
def run(
    folder: Annotated[Path, typer.Argument(help="a configuration: src/terraform/aws_state")],
    arguments: Annotated[list[str], typer.Argument(help="the terraform command")],
) -> int:
    """Run one terraform command offline."""
    if shutil.which("terraform") is None:
        raise SettingInvalid(MISSING)
    with offline(folder, os.environ) as terraform:
        outcome = terraform.run(*arguments)
    sys.stdout.write(outcome.text)
    return outcome.code


if __name__ == "__main__":
    run_program(app)
