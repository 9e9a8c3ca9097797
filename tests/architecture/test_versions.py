"""docs/versions.md says what the files that it names pin."""

import re

import pytest

from tests.architecture.repository import ROOT

ROW = re.compile(r"^\| [^|]+ \| (?P<versions>[^|]+) \| `(?P<path>[^`]+)` \|", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs/versions.md").read_text())


@pytest.mark.parametrize(("versions", "path"), ROWS, ids=lambda value: str(value))
def test_a_file_pins_what_the_page_says(versions: str, path: str) -> None:
    """And the page has rows at all."""
    text = (ROOT / path).read_text()

    found = re.findall(r"\d+\.\d+\.\d+", versions)
    assert found
    assert [version for version in found if version not in text] == []
