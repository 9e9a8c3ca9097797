"""Every lock holds what its requirements ask for."""

import re

import pytest

from tests.architecture.repository import ROOT

FOLDER = ROOT / "3rdparty/python"
# Lock -> the files that it is made of; build-support/lock makes it.
LOCKS = {
    "servekit": ("requirements", "pytest", "schemathesis"),
    "mypy": ("mypy",),
    "pytest": ("pytest",),
    "ruff": ("ruff",),
    "setuptools": ("setuptools",),
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(text: str) -> list[tuple[str, str]]:
    """Name and version of each line, as `name[extra]==1.2.*`."""
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines())
    split = (re.split(r"==|(?=>=)", line, maxsplit=1) for line in lines if line)
    return [(normal(words[0].partition("[")[0]), words[1].strip()) for words in split]


def holds(version: str, wanted: str) -> bool:
    """Whether *version* is what `==wanted` asks for."""
    if wanted.startswith(">="):
        return True
    if wanted.endswith(".*"):
        return f"{version}.".startswith(wanted[:-1])
    return version == wanted


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_as_new_as_its_requirements(lock: str) -> None:
    """Otherwise an import fails in some test, and nothing says why."""
    locked = dict(requirements(_pins(lock)))
    wanted = [pair for name in LOCKS[lock] for pair in requirements(_text(f"{name}.txt"))]

    stale = [f"{name}=={v}" for name, v in wanted if not holds(locked.get(name, ""), v)]

    assert wanted
    assert stale == [], f"renew it: build-support/lock {lock}"


@pytest.mark.parametrize(
    ("version", "wanted", "held"),
    [("1.2.3", "1.*", True), ("1.2.3", "1.2.3", True), ("10.1", "1.*", False), ("", "1.*", False)],
)
def test_a_version_that_was_not_asked_for_is_seen(version: str, wanted: str, held: bool) -> None:
    """By whole numbers, not by letters; a package that is missing too."""
    assert holds(version, wanted) == held


def _text(name: str) -> str:
    return (FOLDER / name).read_text()


def _pins(lock: str) -> str:
    pins = re.findall(r"^[A-Za-z0-9][^\s;]*==[^\s;]+", _text(f"{lock}.lock"), re.MULTILINE)
    return "\n".join(pins)
