"""docs/seeds/cloud_run.md leads where it says."""

import re
from pathlib import Path

PAGE = Path("docs/seeds/cloud_run.md")


def test_every_item_has_a_file_that_exists() -> None:
    """A row without one would be a promise; a file that was moved takes its row along."""
    rows = re.findall(r"^\| (?!item \||---)(.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)

    assert len(rows) >= 25
    for item, where in rows:
        paths = re.findall(r"`([^`]+/[^`]+)`", where)
        assert paths, item
        assert [path for path in paths if not Path(path).is_file()] == [], item
