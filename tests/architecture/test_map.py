"""Which file holds the tests of a module, where the names differ: tests/README.md.

`python -m tests.architecture.test_map` writes its table anew.
"""

import argparse
import re
from pathlib import Path

from tests.architecture.repository import PYTHON, ROOT, imports_of, module_graph

TESTS = ROOT / "tests"
PAGE = TESTS / "README.md"
START = "| module | tests |\n|---|---|\n"
# More would be no answer: these import it most directly, the nearest folder first.
SHOWN = 3


def files_by_module() -> dict[str, list[str]]:
    """Module -> the tests that come nearest to it, where there is no `test_NAME.py` in its place.

    Those import it, or what imports it, or start the program that it is a part of.
    """
    tests = {str(path.relative_to(TESTS)): path for path in sorted(TESTS.rglob("test_*.py"))}
    imported = {name: imports_of(path) for name, path in tests.items()}
    graph = module_graph(PYTHON)
    found = {}
    for module in sorted(graph):
        place = f"{module.replace('.', '/')}.py"
        if f"{place.rpartition('/')[0]}/test_{place.rpartition('/')[2]}" in tests:
            continue
        users = _nearest(module, graph, imported) or _starters(module, tests)
        found[place] = sorted(users, key=lambda test: (-_shared(test, place), test))
    return found


def _nearest(module: str, graph: dict[str, set[str]], imported: dict[str, set[str]]) -> list[str]:
    """Tests that import *module*; if none do, those that import its importers, and so on."""
    near, seen = {module}, {module}
    while near:
        if users := [test for test, names in imported.items() if names & near]:
            return users
        near = {name for name, uses in graph.items() if uses & near} - seen
        seen |= near
    return []


def _starters(module: str, tests: dict[str, Path]) -> list[str]:
    """Tests of the module's deployable that start it, or all where that cannot be told."""
    deployable = module.partition(".")[0]
    own = [name for name in tests if name.startswith(f"{deployable}/")]
    program = re.compile(rf'"{deployable}\.\w+"')
    return [name for name in own if program.search(tests[name].read_text())] or own


def _shared(test: str, place: str) -> int:
    """How many folders two paths have in common."""
    pairs = zip(test.split("/")[:-1], place.split("/")[:-1], strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), 99)


def table() -> str:
    rows = [
        f"| `{module}` | {', '.join(f'`{test}`' for test in tests[:SHOWN]) or 'none by name'} |"
        for module, tests in files_by_module().items()
    ]
    return START + "\n".join(rows) + "\n"


def test_the_table_is_up_to_date() -> None:
    """A module that was moved, and a test that was renamed, are found by the page."""
    assert table() in PAGE.read_text(), "renew it: python -m tests.architecture.test_map"


def test_every_file_that_the_page_names_is_there() -> None:
    """The words around the table too."""
    named = re.findall(r"`([\w/]+\.(?:py|md))`", PAGE.read_text())
    roots = (TESTS, PYTHON, ROOT)

    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    text = PAGE.read_text()
    PAGE.write_text(text.partition(START)[0] + table())
