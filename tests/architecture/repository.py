"""The repository as its files say it is: dependency table, BUILD files, imports.  Reads files."""

import ast
import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "src/python"

# Where each row of docs/architecture.md's drawing keeps its code.
_LIBRARIES = "servekit/"


def dependency_table(build_file: Path) -> dict[str, str]:
    """The literal TABLE of a BUILD file: row -> "libraries | packages"."""
    for node in ast.parse(build_file.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "TABLE":
            return dict(ast.literal_eval(node.value))
    raise LookupError(f"{build_file}: no TABLE; the dependency table is a literal of that name")


def libraries_of(table: dict[str, str]) -> dict[str, set[str]]:
    """Row -> the rows that it may import, all by their folders' names."""
    return {
        row: {
            name if "/" in name else _LIBRARIES + name for name in allowed.partition("|")[0].split()
        }
        for row, allowed in table.items()
    }


def room_of(row: str) -> str | None:
    """The deployable that *row* is a folder of; None for a library and for a whole deployable."""
    parent, _, inside = row.partition("/")
    return parent if inside and not row.startswith(_LIBRARIES) else None


def files_with_rules(root: Path) -> set[str]:
    """BUILD files, and what they are prefixed with, that say who may depend on what."""
    rule = re.compile(r"^\s*__(dependencies|dependents)_rules__\(", re.MULTILINE)
    found = [*root.rglob("BUILD"), *root.glob("build-support/*.build")]
    return {
        str(path.relative_to(root))
        for path in found
        if path.relative_to(root).parts[0] != "dist" and rule.search(path.read_text())
    }


def drawn_layers(page: str) -> dict[str, int]:
    """Row -> layer, from the first drawing of docs/architecture.md; images are left out."""
    drawing = page.split("```")[1]
    layers: dict[str, int] = {}
    layer = -1
    for line in drawing.strip().splitlines():
        if line[0].isdigit():
            layer = int(line[0])
        names = re.sub(r"\([^)]*\)", "", line[1:]).replace("src/docker/*", "").split()
        if layer <= 3:
            layers |= {_row_of(name, layer): layer for name in names if _is_row(name)}
    return layers


def _is_row(name: str) -> bool:
    return re.fullmatch(r"[a-z_]+", name) is not None and name != "deployables"


def _row_of(name: str, layer: int) -> str:
    return name if layer == 3 else _LIBRARIES + name


def imports_of(source: Path) -> set[str]:
    """Modules that *source* names in its imports, at whatever depth of the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_graph(root: Path) -> dict[str, set[str]]:
    """Our modules -> our modules that they import."""
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for path in root.rglob("*.py")
        if path.name != "__init__.py"
    }
    return {name: imports_of(path) & modules.keys() for name, path in modules.items()}


def modules_per_folder(root: Path) -> Counter[str]:
    """Folders below *root* -> how many modules lie in each, without those of its folders."""
    return Counter(
        str(path.parent.relative_to(root))
        for path in root.rglob("*.py")
        if path.name != "__init__.py"
    )


def may_import(name: str, used: str, allowed: dict[str, set[str]]) -> bool:
    """Whether module *name* may import *used*: the deepest row that holds *name* decides."""

    def within(module: str, row: str) -> bool:
        return module.startswith(row.replace("/", ".") + ".")

    own = max((row for row in allowed if within(name, row)), key=len, default=None)
    return own is not None and any(within(used, row) for row in {own} | allowed[own])


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Names that import one another in a ring, or an empty list."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if ring := visit(target, [*path, name]):
                return ring
        done.add(name)
        return []

    return next((ring for name in sorted(graph) if (ring := visit(name, []))), [])


def standard_names(folders: tuple[Path, ...]) -> list[str]:
    """Our modules, below *folders*, that are named as one of the standard library.

    A program that is run by its path has its folder on `sys.path` before the standard library, so
    that such a neighbour hides the module that everybody else means.
    """
    return sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in folder.rglob("*.py")
        if path.stem in sys.stdlib_module_names and path.stem != "__init__"
    )
