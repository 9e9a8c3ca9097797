"""A configuration's plan, as values.  Runs terraform."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.terraform.offline import OfflineTerraform, offline

Values = dict[str, Any]


class PlanRefused(Exception):
    """Terraform refused the configuration or an input; carries its words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an apply would make.

    Attributes:
        resources: by address, such as `aws_subnet.public["us-east-1a"]`.
        outputs: by name; without those that only an apply would know.
    """

    resources: dict[str, Values]
    outputs: Values

    def of(self, kind: str) -> list[Values]:
        """Return the resources of one type."""
        return list(self.named(kind).values())

    def named(self, kind: str) -> dict[str, Values]:
        """Return the resources of one type, by address."""
        return {
            address: values
            for address, values in self.resources.items()
            if address.split(".")[0] == kind
        }


def plan_of(source: Path, **variables: object) -> Plan:
    """Plan the configuration in *source* with *variables*.

    Raises:
        PlanRefused: Terraform refuses it.
    """
    with offline(source, os.environ, made_up=True) as terraform:
        return planned(terraform, **variables)


def planned(terraform: OfflineTerraform, **variables: object) -> Plan:
    """Plan an initialised configuration with *variables*, beside those of tests/plan.tfvars.

    Raises:
        PlanRefused: Terraform refuses it.
    """
    examples = terraform.folder / "tests" / "plan.tfvars"
    files = [f"-var-file={examples}"] if examples.exists() else []
    given = [f"-var={name}={_hcl(value)}" for name, value in variables.items()]
    plan = terraform.run("plan", "-no-color", "-input=false", "-out=plan", *files, *given)
    if plan.code:
        raise PlanRefused(plan.text)
    shown = json.loads(terraform.run("show", "-json", "plan").text)["planned_values"]
    return Plan(
        dict(_resources(shown["root_module"])),
        {name: it.get("value") for name, it in shown.get("outputs", {}).items()},
    )


def _resources(module: Values) -> Iterator[tuple[str, Values]]:
    for resource in module.get("resources", []):
        if resource["mode"] == "managed":
            yield resource["address"], resource["values"]
    for child in module.get("child_modules", []):
        yield from _resources(child)


def _hcl(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
