"""`cluster-check`: whether the nodes of a cluster are as the set-up scripts leave them."""

import socket
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cluster_check.checks import ROLES, ClusterNode
from cluster_check.reach import Here, Reach, ThroughSsm, start_process
from cluster_check.report import as_json, as_table, check_nodes
from servekit.cli.app import ProgramApp
from servekit.cli.program import run_program
from servekit.errors.tree import SettingInvalid

app = ProgramApp("cluster_check", help="Check the nodes of a cluster.")

AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the results as JSON instead of a table.", rich_help_panel="Output"
    ),
]


class _NodeOutput(msgspec.Struct, frozen=True):
    """One node, as `terraform output -json nodes` prints it."""

    instance_id: str
    role: str
    private_ip: str = ""


@app.command()
def local(
    role: Annotated[
        str,
        typer.Option(
            help="Role of this machine: control-plane, worker or gpu-worker.",
            rich_help_panel="Nodes",
        ),
    ] = "worker",
    json: AsJson = False,
) -> int:
    """Check this machine."""
    node = ClusterNode(socket.gethostname(), _known(role))
    return _show([node], Here(start_process), json)


@app.command()
def ssm(
    nodes: Annotated[
        Path,
        typer.Option(
            help="File with the output of `terraform output -json nodes`.", rich_help_panel="Nodes"
        ),
    ],
    region: Annotated[
        str,
        typer.Option(
            help="AWS region; default: the region of the `aws` command.", rich_help_panel="Nodes"
        ),
    ] = "",
    json: AsJson = False,
) -> int:
    """Check every node through AWS Systems Manager."""
    return _show(read_nodes(nodes), ThroughSsm(start_process, time.sleep, region), json)


def read_nodes(path: Path) -> list[ClusterNode]:
    """Return the nodes of the file that Terraform's output was written to.

    Raises:
        SettingInvalid: the file cannot be read, or is not that output.
    """
    advice = "write it with: terraform output -json nodes > nodes.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, _NodeOutput])
    except OSError as error:
        raise SettingInvalid(f"{path}: {error.strerror}; {advice}") from error
    except msgspec.DecodeError as error:
        raise SettingInvalid(f"{path}: {error}; {advice}") from error
    return [
        ClusterNode(name, _known(node.role), node.instance_id, node.private_ip)
        for name, node in found.items()
    ]


def _known(role: str) -> str:
    if role not in ROLES:
        raise SettingInvalid(f"role {role!r} is unknown; it is {', '.join(ROLES)}")
    return role


def _show(nodes: list[ClusterNode], reach: Reach, json: bool) -> int:
    findings = list(check_nodes(nodes, reach))
    sys.stdout.write((as_json(findings) if json else as_table(findings)) + "\n")
    return 0 if all(finding.passed for finding in findings) else 1


def main() -> None:
    """The command `cluster-check`."""
    run_program(app)


if __name__ == "__main__":
    main()
