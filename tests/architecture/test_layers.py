"""The drawing in docs/architecture.md, the table that Pants enforces and the imports agree."""

import pytest

from tests.architecture.repository import (
    PYTHON,
    ROOT,
    dependency_table,
    drawn_layers,
    files_with_rules,
    find_cycle,
    libraries_of,
    may_import,
    module_graph,
    modules_per_folder,
    room_of,
)

# Rules in a BUILD file replace those of its parents for all that is below it, so that one more file
# with rules is a hole in the table.
FILES_WITH_RULES = {"src/python/BUILD", "src/docker/BUILD"}


# Folders with more modules than a newcomer reads through; they wait for being divided.
UNDIVIDED: set[str] = set()


def table() -> dict[str, set[str]]:
    return libraries_of(dependency_table(PYTHON / "BUILD"))


def test_only_the_known_files_hold_rules() -> None:
    """Who may import what is said in one place for code and in one for images."""
    assert files_with_rules(ROOT) == FILES_WITH_RULES


def test_every_row_of_the_table_is_drawn() -> None:
    """Whoever reads the page sees the libraries and programs that there are."""
    page = (ROOT / "docs/architecture.md").read_text()

    drawn = {row for row in table() if room_of(row) is None}

    assert drawn - drawn_layers(page).keys() == set()


def test_rows_import_only_what_stands_below_them() -> None:
    """A row of the table may use rows of a lower layer; only layer 1 may use its own (settings)."""
    layers = drawn_layers((ROOT / "docs/architecture.md").read_text())

    upward = [
        f"{row} -> {used}"
        for row, uses in table().items()
        for used in uses
        if layers[room_of(used) or used] > layers[room_of(row) or row]
    ]

    assert upward == []


def test_no_deployable_imports_another() -> None:
    """Programs meet over HTTP, or as processes."""
    foreign = {
        row: {
            used for used in uses if not used.startswith(("servekit/", f"{room_of(row) or row}/"))
        }
        for row, uses in table().items()
    }

    assert {row: uses for row, uses in foreign.items() if uses} == {}


def test_a_folder_holds_at_most_sixteen_modules() -> None:
    """A folder has one subject; what is not divided yet may only shrink."""
    full = modules_per_folder(PYTHON)

    assert {folder for folder, count in full.items() if count > 16} == UNDIVIDED


def test_every_python_folder_has_its_row() -> None:
    """Code outside the table may import nothing, so a folder without a row is a mistake.

    A deployable that has folders with rows has one for each.
    """
    split = {PYTHON / room for row in table() if (room := room_of(row))}
    folders = {
        str(path.relative_to(PYTHON))
        for parent in (PYTHON, PYTHON / "servekit", *split)
        for path in parent.iterdir()
        if path.is_dir() and any(path.glob("*.py"))
    }

    assert folders - table().keys() == set()


def test_the_table_has_no_cycle() -> None:
    """No two rows need each other, however far around."""
    assert find_cycle(table()) == []


def test_the_modules_have_no_cycle() -> None:
    """Nor do two modules of one row."""
    assert find_cycle(module_graph(PYTHON)) == []


def test_the_imports_keep_to_the_table() -> None:
    """Pants refuses the rest too, but later than this."""
    allowed = table()

    refused = [
        f"{name} -> {used}"
        for name, uses in module_graph(PYTHON).items()
        for used in uses
        if not may_import(name, used, allowed)
    ]

    assert refused == []


@pytest.mark.parametrize(
    ("name", "used", "may"),
    [
        ("bench.stats.intervals", "bench.stats.estimators", True),
        ("bench.stats.intervals", "bench.loadgen.record", True),
        ("bench.stats.intervals", "bench.report.tables", False),
        ("bench.stats.intervals", "bench.runner", False),
        ("bench.runner", "bench.stats.intervals", True),
        ("servekit.wire.sse", "servekit.fleet.fleet", False),
        ("bench_environments.main", "bench.runner", False),
    ],
)
def test_may_import_is_decided_by_the_deepest_row(name: str, used: str, may: bool) -> None:
    """A folder with a row has no more part in what its deployable may import."""
    allowed = {
        "bench": {"servekit/wire"},
        "bench/stats": {"bench/loadgen"},
        "bench/loadgen": set(),
        "bench_environments": set(),
        "servekit/wire": set(),
    }

    assert may_import(name, used, allowed) is may


@pytest.mark.parametrize(
    ("graph", "ring"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, []),
    ],
)
def test_find_cycle_sees_rings_only(graph: dict[str, set[str]], ring: list[str]) -> None:
    """A diamond is no ring; a ring is named from its first member on."""
    assert find_cycle(graph) == ring
