"""docs/seeds/kubernetes_platform.md leads where it says."""

import re
from pathlib import Path

PAGE = Path("docs/seeds/kubernetes_platform.md")


def test_every_item_has_a_file_that_exists() -> None:
    """A row without one would be a promise; a file that was moved takes its row along."""
    rows = re.findall(r"^\| (?!item \||---)(.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)

    assert len(rows) > 30
    missing = {
        item: [path for path in re.findall(r"`([^`]+/[^`]+)`", where) if not Path(path).is_file()]
        for item, where in rows
    }
    assert {item: paths for item, paths in missing.items() if paths} == {}
    assert [item for item, where in rows if "/" not in where] == []
