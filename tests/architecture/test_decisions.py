"""The pages of docs/adr have one form, and the index names them all."""

import re

import pytest

from tests.architecture.repository import ROOT

FOLDER = ROOT / "docs/adr"
PAGES = sorted(FOLDER.glob("[0-9]*.md"))
FIRST_LINES = re.compile(
    r"# (?P<number>\d{4}): (?P<title>.+)\n\n"
    r"Date: (?P<date>\d{4}-\d\d-\d\d)\. Status: (?P<status>accepted|superseded by \d{4})\.\n\n"
)


@pytest.mark.parametrize("name", [page.name for page in PAGES])
def test_a_decision_has_number_date_status_and_a_row(name: str) -> None:
    """The number is the file's; the row of the index has the title as the page has it."""
    found = FIRST_LINES.match((FOLDER / name).read_text())

    assert found is not None, f"{name}: begin with '# NNNN: Title' and 'Date: … Status: …'"
    number, title, date, status = found.groups()
    row = f"| [{number}]({name}) | {title} | {date} | {status} |"
    assert number == name[:4]
    assert row in (FOLDER / "README.md").read_text().splitlines()


def test_the_index_names_no_page_that_is_not_there() -> None:
    """And there are pages at all."""
    linked = re.findall(r"\]\((\d{4}-[^)]+)\)", (FOLDER / "README.md").read_text())

    assert linked == [page.name for page in PAGES]
