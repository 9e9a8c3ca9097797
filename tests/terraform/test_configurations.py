"""Every configuration in src/terraform, as far as it can be checked without an account."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from servekit.errors.tree import SettingInvalid
from tests.terraform.offline import MISSING, OfflineTerraform, offline

ROOT = Path("src/terraform")
CONFIGURATIONS = sorted({path.parent for path in ROOT.glob("*/*.tf")})

needs_terraform = pytest.mark.skipif(shutil.which("terraform") is None, reason=MISSING)

CHECKOV_MISSING = (
    "checkov is not on the PATH, so no policy was checked; `uv tool install checkov==3.3.30`"
)


@pytest.fixture(params=CONFIGURATIONS, ids=lambda path: path.name)
def terraform(request: pytest.FixtureRequest) -> Iterator[OfflineTerraform]:
    with offline(request.param, os.environ) as initialised:
        yield initialised


def test_there_are_configurations() -> None:
    """An empty list would make every other test here pass."""
    assert {"aws_cluster", "aws_state", "gcp_bench"} <= {folder.name for folder in CONFIGURATIONS}


@needs_terraform
@pytest.mark.parametrize(
    "command",
    [("fmt", "-check", "-recursive", "-diff"), ("validate", "-no-color"), ("test", "-no-color")],
    ids=["fmt", "validate", "test"],
)
def test_a_configuration_passes(terraform: OfflineTerraform, command: tuple[str, ...]) -> None:
    """Formatted, valid against the provider's schema, and right by its own tests."""
    outcome = terraform.run(*command)

    assert outcome.code == 0, outcome.text


@needs_terraform
def test_a_configuration_has_tests_of_its_own(terraform: OfflineTerraform) -> None:
    """`terraform test` passes where there is nothing to run."""
    outcome = terraform.run("test", "-no-color")

    assert "... pass" in outcome.text


@needs_terraform
def test_a_configuration_plans_from_its_defaults(terraform: OfflineTerraform) -> None:
    """The defaults suffice, or tests/plan.tfvars beside the tests says what has none."""
    examples = terraform.folder / "tests" / "plan.tfvars"
    given = [f"-var-file={examples}"] if examples.exists() else []

    outcome = terraform.run("plan", "-no-color", "-input=false", *given)

    assert outcome.code == 0, outcome.text
    assert " to add, 0 to change, 0 to destroy" in outcome.text


PLANTED = {
    "an unknown attribute": (
        'cidr_blok = "10.0.0.0/16"',
        'An argument named "cidr_blok" is not expected here',
    ),
    "a wrong type": ('cidr_block = ["10.0.0.0/16"]', "string required"),
    "an unknown block": ("routes {}", 'Blocks of type "routes" are not expected here'),
}


@needs_terraform
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str, tmp_path: Path) -> None:
    """What passes above passes because it is right, not because nothing looks."""
    line, expected = PLANTED[fault]
    requirement = 'aws = { source = "hashicorp/aws" }'
    (tmp_path / "main.tf").write_text(
        f"terraform {{\n  required_providers {{\n    {requirement}\n  }}\n}}\n"
        f'resource "aws_vpc" "a" {{\n  {line}\n}}\n'
    )

    with offline(tmp_path, os.environ) as planted:
        outcome = planted.run("validate", "-no-color")

    assert outcome.code == 1
    assert expected in outcome.text


def test_a_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    """Terraform would call an empty folder valid."""
    with pytest.raises(SettingInvalid, match=r"holds no \*.tf file"), offline(tmp_path, {}):
        pass


@pytest.mark.skipif(shutil.which("checkov") is None, reason=CHECKOV_MISSING)
@pytest.mark.timeout(300)
def test_policies_hold() -> None:
    """Each exception is written beside what it is about, with its reason."""
    command = f"checkov -d {ROOT} --framework terraform --compact --quiet --skip-download"

    done = subprocess.run(  # noqa: S603
        command.split(), capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
