"""One name for one thing: public classes, and the words that users read."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.architecture.repository import PYTHON

# A public class name that stands for two things, and why it does.
TWICE: dict[str, str] = {}
MOST_TWICE = 8

# Words of ours that are no terms of the field; docs/glossary.md has those.
BANNED = re.compile(
    r"\b(whoever|nobody|somebody|likewise|patience|of ours|of (its|their) own|stands there"
    r"|there is only|is no share|the seeds?'s?|the seeds)\b",
    re.IGNORECASE,
)


def class_names() -> dict[str, set[str]]:
    """Public top-level class -> the modules that define one."""
    found = defaultdict(set)
    for path in PYTHON.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].add(str(path.relative_to(PYTHON)))
    return found


def strings_for_users(source: str) -> list[tuple[int, str]]:
    """Line and text of every string but docstrings; of those, the ones that `--help` shows."""
    tree = ast.parse(source)
    hidden = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and not _is_command(node):
                hidden.add(first.value)
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in hidden
    ]


def _is_command(node: ast.AST) -> bool:
    shown = re.compile(r"\.(command|callback)\b")
    return any(shown.search(ast.unparse(one)) for one in getattr(node, "decorator_list", []))


def test_a_public_class_name_stands_for_one_thing() -> None:
    """Or for two, where the reason stands beside it."""
    twice = {name for name, modules in class_names().items() if len(modules) > 1}

    assert twice == set(TWICE)
    assert len(TWICE) <= MOST_TWICE


SOURCES = sorted(str(path.relative_to(PYTHON)) for path in PYTHON.rglob("*.py"))


@pytest.mark.parametrize("folder", sorted({Path(name).parts[0] for name in SOURCES}))
def test_users_read_no_word_of_ours(folder: str) -> None:
    """Help, errors, log events, metric texts and reports are in the field's own terms."""
    found = [
        f"{name}:{line}: {text!r}"
        for name in SOURCES
        if Path(name).parts[0] == folder
        for line, text in strings_for_users((PYTHON / name).read_text())
        if BANNED.search(text)
    ]

    assert found == []


def test_a_planted_word_is_seen() -> None:
    """In an error, in an f-string and in a command's help, but not in a docstring."""
    source = '''
"""Whoever reads this."""
@app.command()
def run():
    """Likewise."""
    raise SettingInvalid(f"nobody is {here}")
'''

    assert [line for line, text in strings_for_users(source) if BANNED.search(text)] == [5, 6]
