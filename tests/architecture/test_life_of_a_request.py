"""The tables of docs/architecture.md that follow a request and a run name what there is."""

import ast
import re

import pytest

from tests.architecture.repository import PYTHON, ROOT

STOP = re.compile(r"^\| .+ \| `(?P<path>[\w/]+\.py)`: `(?P<name>[\w.]+)` \|$", re.MULTILINE)
STOPS = STOP.findall((ROOT / "docs/architecture.md").read_text())


def names_in(source: str) -> set[str]:
    """Functions, classes and methods of a module, as `Class.method`."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, functions)}
    return found


def test_both_tables_are_read() -> None:
    """From the socket to the engine, and from the trace to the report."""
    assert len(STOPS) >= 20


@pytest.mark.parametrize(("path", "name"), STOPS, ids=lambda value: str(value))
def test_a_stop_is_where_the_page_says(path: str, name: str) -> None:
    """A newcomer opens the file and finds the name."""
    assert name in names_in((PYTHON / path).read_text())
