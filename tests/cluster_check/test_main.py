"""The program: its table, its exit codes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster_check.checks import GPU_WORKER, ClusterNode, NodeFinding, Output
from cluster_check.main import app, read_nodes
from cluster_check.report import as_table, check_nodes
from servekit.errors.tree import SettingInvalid


def test_nodes_are_what_terraform_prints(tmp_path: Path) -> None:
    """The shape of `terraform output -json nodes`."""
    path = tmp_path / "nodes.json"
    path.write_text('{"a": {"instance_id": "i-1", "role": "gpu-worker", "private_ip": "10.0.0.1"}}')

    assert read_nodes(path) == [ClusterNode("a", GPU_WORKER, "i-1", "10.0.0.1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("[]", "Expected `object`"),
        ('{"a": {}}', "missing required field `instance_id`"),
        ('{"a": {"instance_id": "i", "role": "king"}}', "role 'king' is unknown"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    """Before any node is asked."""
    path = tmp_path / "nodes.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(SettingInvalid, match=message):
        read_nodes(path)


class Answering:
    """Every command on every node says the same."""

    def run(self, node: ClusterNode, command: str) -> Output:  # noqa: ARG002
        return Output(None, "stopped")


def test_every_check_runs_on_every_node() -> None:
    """Nine on a GPU worker that has a neighbour, one less on the neighbour."""
    nodes = [
        ClusterNode("a", GPU_WORKER, "i-1", "10.0.0.1"),
        ClusterNode("b", "worker", "i-2", "10.0.0.2"),
    ]

    findings = list(check_nodes(nodes, Answering()))

    assert [finding.node for finding in findings] == ["a"] * 9 + ["b"] * 8


def test_the_table_says_what_to_do() -> None:
    """A line each, and the sum at the end."""
    table = as_table(
        [
            NodeFinding("a", "swap", True, "ok"),
            NodeFinding("b", "gpu", False, "no GPU", "install it"),
        ]
    )

    assert table.splitlines() == [
        "node  check  result  detail",
        "a     swap   pass    ok",
        "b     gpu    FAIL    no GPU; install it",
        "",
        "1 passed, 1 failed",
    ]


def test_the_machine_that_runs_this_is_checked() -> None:
    """For real: whatever it is, each check has an answer, and the exit code follows from them."""
    result = CliRunner().invoke(
        app, ["local", "--role", "gpu-worker", "--json"], standalone_mode=False
    )

    findings = json.loads(result.stdout)
    assert len(findings) == 7
    passed = all(finding["passed"] for finding in findings)
    assert result.return_value == (0 if passed else 1)
