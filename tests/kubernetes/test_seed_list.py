"""docs/seeds/kubernetes_platform.md leads where it says, and what it says is proved."""

import re
from pathlib import Path

PAGE = Path("docs/seeds/kubernetes_platform.md")


def rows() -> list[tuple[str, str, str]]:
    """Return item, places and proof of every row."""
    found = re.findall(
        r"^\| (?!item \||---)(.+) \| (.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE
    )
    return [(item, where, proof) for item, where, proof in found]


def test_every_item_has_a_file_that_exists() -> None:
    """A row without one would be a promise; a file that was moved takes its row along."""
    assert len(rows()) > 30
    missing = {
        item: [path for path in re.findall(r"`([^`]+/[^`]+)`", where) if not Path(path).is_file()]
        for item, where, _ in rows()
    }
    assert {item: paths for item, paths in missing.items() if paths} == {}
    assert [item for item, where, _ in rows() if "/" not in where] == []


def test_every_item_has_a_test_that_proves_it() -> None:
    """By the name of a function that is there; no row without one."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    headings = [line for line in lines if line.startswith("| item |")]

    unproved = [item for item, _, proof in rows() if not _exists(proof.strip("`"))]

    assert len(rows()) == len(lines) - len(headings)
    assert unproved == []


def _exists(proof: str) -> bool:
    path, _, name = proof.partition("::")
    text = Path(path).read_text() if Path(path).is_file() else ""
    return re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE) is not None
