"""Findings as a table or as JSON.  Pure."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from cluster_check.checks import Check, ClusterNode, NodeFinding, checks_for
from cluster_check.reach import Reach


def check_nodes(nodes: Sequence[ClusterNode], reach: Reach) -> Iterable[NodeFinding]:
    """Run every check on every node, one after another."""
    for node in nodes:
        for check in checks_for(node, list(nodes)):
            yield _finding(check, node, reach)


def _finding(check: Check, node: ClusterNode, reach: Reach) -> NodeFinding:
    return check.judge(node, reach.run(node, check.command))


def as_table(findings: Sequence[NodeFinding]) -> str:
    """Return one line per finding, and one for the sum."""
    rows = [("node", "check", "result", "detail")]
    for finding in findings:
        detail = finding.detail + (f"; {finding.remedy}" if finding.remedy else "")
        rows.append((finding.node, finding.check, "pass" if finding.passed else "FAIL", detail))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    failed = sum(not finding.passed for finding in findings)
    return "\n".join([*lines, "", f"{len(findings) - failed} passed, {failed} failed"])


def as_json(findings: Sequence[NodeFinding]) -> str:
    return json.dumps([asdict(finding) for finding in findings], indent=2)
