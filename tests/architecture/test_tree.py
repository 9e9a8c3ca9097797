"""What only the whole tree tells: pages of docs/seeds lead where they say; names of modules."""

import re
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT, standard_names

PAGES = sorted((ROOT / "docs/seeds").glob("*.md"))
LEAST_ROWS = {"cloud_run": 25, "kubernetes_platform": 30, "modal": 10, "replicate": 10}


def rows(page: Path) -> list[list[str]]:
    """The cells of each row, headings left out."""
    lines = re.findall(r"^\| (.+) \|$", page.read_text(), re.MULTILINE)
    return [re.split(r"(?<!\\) \| ", line) for line in lines if not line.startswith("item |")]


def paths_in(cell: str) -> list[str]:
    return re.findall(r"`([\w.-]+/[\w./-]+)`", cell)


def has_test(proof: str) -> bool:
    """Whether `FILE::FUNCTION` is there."""
    path, _, name = proof.strip("`").partition("::")
    file = ROOT / path
    text = file.read_text() if file.is_file() else ""
    return re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_item_has_files_that_exist(page: Path) -> None:
    """A row without one would be a promise; a file that was moved takes its row along."""
    found = rows(page)

    assert len(found) >= LEAST_ROWS[page.stem]
    assert [item for item, where, *_ in found if not paths_in(where)] == []
    missing = [path for _, where, *_ in found for path in paths_in(where)]
    assert [path for path in missing if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_proof_is_a_test_that_is_there(page: Path) -> None:
    """By the name of its function, where the page has a column of proofs."""
    proofs = [(item, proof) for item, _, *rest in rows(page) for proof in rest]

    assert [item for item, proof in proofs if not has_test(proof)] == []
    assert bool(proofs) == (page.stem == "kubernetes_platform")


def test_no_module_of_ours_hides_one_of_the_standard_library() -> None:
    """`http.py` beside a script that is run by its path breaks every import of `http`."""
    assert standard_names((ROOT / "src", ROOT / "tests", ROOT / "build-support")) == []
