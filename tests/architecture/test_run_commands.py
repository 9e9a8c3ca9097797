"""`pants run` in a page starts one program."""

import re

from tests.architecture.repository import PYTHON, ROOT

_RUN = re.compile(r"pants run (src/python/\w+)(:\w+)?")
# Each makes something that can be run, and the second of them three.
_RUNNABLE = {"pex_binary(": 1, "image_program(": 3}


def runnable_targets(build: str) -> int:
    """How many things can be run from a folder with this *build* file (count)."""
    return sum(build.count(rule) * number for rule, number in _RUNNABLE.items())


def test_command_of_every_page_names_one_program() -> None:
    """A folder is enough where it has one; otherwise Pants asks which, and starts nothing."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *PYTHON.rglob("README.md")]
    found = [(page, *run) for page in pages for run in _RUN.findall(page.read_text())]
    several = [
        (str(page.relative_to(ROOT)), folder)
        for page, folder, target in found
        if not target and runnable_targets((ROOT / folder / "BUILD").read_text()) != 1
    ]

    assert len(found) > 10
    assert several == []
