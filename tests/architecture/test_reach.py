"""What a change of a library reaches, as docs/architecture.md says: images, programs, tests.

`python -m tests.architecture.test_reach` writes that table anew.
"""

from pathlib import Path

from tests.architecture.repository import (
    PYTHON,
    ROOT,
    dependency_table,
    imports_of,
    libraries_of,
    module_graph,
    room_of,
)

PAGE = ROOT / "docs/architecture.md"
START = "| library | programs | images | folders of tests |\n|---|---|---|---|\n"


def below(row: str, uses: dict[str, set[str]]) -> set[str]:
    """*row*, its folders, and every row that those may import."""
    found: set[str] = set()
    fresh = {row}
    while fresh:
        found |= fresh
        rooms = {name for name in uses if room_of(name) in fresh}
        fresh = {name for one in fresh for name in uses[one]} | rooms
        fresh -= found
    return found


def modules_below(names: set[str], graph: dict[str, set[str]]) -> set[str]:
    """Modules that are imported by *names*, however far down."""
    found: set[str] = set()
    fresh = names & graph.keys()
    while fresh:
        found |= fresh
        fresh = {used for name in fresh for used in graph[name]} - found
    return found


def folders_of_tests() -> dict[str, set[str]]:
    """Library -> folders of tests of which a file imports it, or what imports it."""
    graph = module_graph(PYTHON)
    support = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): imports_of(path)
        for path in (ROOT / "tests").rglob("*.py")
    }
    whole = graph | {name: used & (graph.keys() | support.keys()) for name, used in support.items()}
    found: dict[str, set[str]] = {}
    for name in support:
        folder = name.split(".")[1]
        for used in modules_below({name}, whole):
            parts = used.split(".")
            if parts[0] == "servekit" and folder not in ("servekit", "support"):
                found.setdefault(parts[1], set()).add(folder)
    return found


def table() -> str:
    rows = dependency_table(PYTHON / "BUILD")
    uses = libraries_of(rows)
    images = dependency_table(ROOT / "src/docker/BUILD")
    programs = {row: below(row, uses) for row in rows if "/" not in row}
    tests = folders_of_tests()
    lines = []
    for row in sorted(row for row in rows if row.startswith("servekit/")):
        reached = sorted(name for name, under in programs.items() if row in under)
        shipped = sorted(
            image for image, name in images.items() if name.partition(":")[0] in reached
        )
        library = row.removeprefix("servekit/")
        cells = (reached, shipped, sorted(tests.get(library, ())))
        texts = (_all_or(cells[0], programs), _all_or(cells[1], images), ", ".join(cells[2]))
        lines.append(f"| `{library}` | {' | '.join(texts)} |")
    return START + "\n".join(lines) + "\n"


def _all_or(
    names: list[str], known: dict[str, object] | dict[str, set[str]] | dict[str, str]
) -> str:
    return "all" if len(names) == len(known) else ", ".join(names) or "none"


def test_the_table_says_what_the_build_says() -> None:
    """Whoever changes a library sees before what will be tested and shipped."""
    assert table() in PAGE.read_text(), "renew it: python -m tests.architecture.test_reach"


def test_an_image_holds_what_its_program_may_import() -> None:
    """By the rows of both tables: `managed_lb` has the routing, and no engine."""
    lines = {line.split("`")[1]: line for line in table().splitlines() if line.startswith("| `")}

    assert "managed_lb" in lines["routing"]
    assert "managed_lb" not in lines["engine"]
    assert "| all |" in lines["errors"]


def _write(page: Path) -> None:
    before, _, rest = page.read_text().partition(START)
    after = rest.partition("\n\n")[2]
    page.write_text(f"{before}{table()}\n{after}")


if __name__ == "__main__":
    _write(PAGE)
