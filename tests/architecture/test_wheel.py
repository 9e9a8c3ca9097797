"""The wheel's extras and console scripts are what the dependency table and the programs say.

`python -m tests.architecture.test_wheel` writes that part of src/python/pyproject.toml anew.
"""

import re
import tomllib

from servekit.cli.installed import PROGRAMS
from servekit.cli.version import VERSION
from tests.architecture.repository import PYTHON, ROOT, dependency_table, room_of

PAGE = PYTHON / "pyproject.toml"
BEGIN, END = "# Made: begin\n", "# Made: end\n"

# What a program can do without, and the extra that brings it.
OPTIONAL = {
    "h2": "http2",
    "opentelemetry-exporter-otlp-proto-http": "otel",
    "opentelemetry-sdk": "otel",
    "pyarrow": "parquet",
    "pyzmq": "kv-events",
}
# Rows that need such a package to start at all.
NEED_ALL = ("modal_embedding",)
# The bench starts these by their names.
STARTS = {"bench": ("loadbalancer", "simulator")}


def versions() -> dict[str, str]:
    """Package -> its line in requirements.txt."""
    lines = (ROOT / "3rdparty/python/requirements.txt").read_text().splitlines()
    wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return {re.split(r"[=><]", line)[0]: line for line in wanted}


def rows_of(row: str, table: dict[str, str]) -> set[str]:
    """*row*, its folders, and every row that those may import."""
    found: set[str] = set()
    fresh = {row, *STARTS.get(row, ())}
    while fresh:
        found |= fresh
        named = {name for one in fresh for name in table[one].partition("|")[0].split()}
        rooms = {name for name in table if room_of(name) in fresh}
        rows = {name if "/" in name else f"servekit/{name}" for name in named} | rooms
        fresh = rows - found
    return found


def extras() -> dict[str, list[str]]:
    """Extra -> requirements, for each row that is no folder of a deployable and needs any."""
    table, wanted = dependency_table(PYTHON / "BUILD"), versions()
    found: dict[str, set[str]] = {extra: set() for extra in OPTIONAL.values()}
    for package, extra in OPTIONAL.items():
        found[extra].add(wanted[package])
    for row in table:
        if room_of(row):
            continue
        packages = {p for one in rows_of(row, table) for p in table[one].partition("|")[2].split()}
        if row not in NEED_ALL:
            packages -= OPTIONAL.keys()
        if packages:
            extra = row.removeprefix("servekit/").replace("_", "-")
            found[extra] = {wanted[package] for package in packages}
    return {extra: sorted(found[extra]) for extra in sorted(found)}


def made() -> str:
    lines = ["[project.optional-dependencies]"]
    for extra, requirements in extras().items():
        lines += [f"{extra} = [", *(f'  "{one}",' for one in requirements), "]"]
    lines += ["", "[project.scripts]"]
    for name in sorted(PROGRAMS):
        lines.append(f'servekit-{name.replace("_", "-")} = "servekit.cli.installed:{name}"')
    return "\n".join(lines) + "\n"


def test_extras_and_scripts_are_up_to_date() -> None:
    """A package that a program gained, and a program that was added, are in the wheel."""
    text = PAGE.read_text()

    assert text.partition(BEGIN)[2].partition(END)[0] == made(), (
        "renew it: python -m tests.architecture.test_wheel"
    )


def test_every_script_has_its_extra() -> None:
    """The remedy that a script names for a missing package exists."""
    project = tomllib.loads(PAGE.read_text())["project"]

    extras_named = {package.replace("_", "-") for package, _ in PROGRAMS.values()}
    assert extras_named <= project["optional-dependencies"].keys()
    named = set(re.findall(r"`(servekit-[a-z-]+)`", (PYTHON / "README.md").read_text()))
    assert named == project["scripts"].keys()


def test_a_program_of_a_script_is_a_module_of_ours() -> None:
    """One that starts when it is run as `python -m`."""
    for package, module in PROGRAMS.values():
        source = (PYTHON / package / f"{module}.py").read_text()
        assert '__name__ == "__main__"' in source, module


def test_the_licence_is_the_repository_s() -> None:
    """A wheel may hold nothing from above its own folder, hence a copy."""
    assert (PYTHON / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_changelog_knows_the_version() -> None:
    """A released version has its section; one to come is under Unreleased."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0] == "Unreleased" or headings[0].split()[0] == VERSION


if __name__ == "__main__":
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + BEGIN + made() + END + rest.partition(END)[2])


def test_parts_have_the_version_of_the_whole() -> None:
    """BUILD files cannot import the one line that says it."""
    text = (ROOT / "build-support/wheels.build").read_text()
    said = re.search(r'^VERSION = "(.+)"$', text, re.MULTILINE)

    assert said is not None
    assert said[1] == VERSION


def test_every_program_has_a_distribution_of_its_own() -> None:
    """Which Pants builds from the libraries that it uses, and from nothing else."""
    without = {
        program
        for program, _ in PROGRAMS.values()
        if "servekit_dist(" not in (PYTHON / program / "BUILD").read_text()
    }

    assert without == set()
