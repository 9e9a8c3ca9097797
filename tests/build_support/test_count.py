"""Tests for the sum of JUnit reports."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "build-support/ci/count"


def count(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        (sys.executable, str(SCRIPT), str(folder)), capture_output=True, text=True, check=False
    )


def write_report(file: Path, *cases: str) -> None:
    inner = "".join(f'<testcase name="t{i}">{case}</testcase>' for i, case in enumerate(cases))
    file.write_text(f"<testsuites><testsuite>{inner}</testsuite></testsuites>")


PASSED, FAILED, BROKEN = "", '<failure message="no"/>', '<error message="fixture"/>'
SKIPPED = '<skipped message="needs a GPU"/>'


def test_last_line_sums_all_reports(tmp_path: Path) -> None:
    """Every report counts once, and a test that could not be set up has failed."""
    write_report(tmp_path / "a.xml", PASSED, PASSED, SKIPPED)
    write_report(tmp_path / "b.xml", FAILED, BROKEN, PASSED)

    result = count(tmp_path)

    assert result.stdout.splitlines()[-1] == "3 passed, 2 failed, 1 skipped"
    assert result.returncode == 1


def test_reasons_of_skipped_tests_are_printed(tmp_path: Path) -> None:
    """Whoever reads the end of the log knows what was left out, and why."""
    write_report(tmp_path / "a.xml", PASSED, SKIPPED, SKIPPED)

    result = count(tmp_path)

    assert "skipped 2: needs a GPU" in result.stdout
    assert result.returncode == 0


def test_a_test_that_was_run_again_counts_once(tmp_path: Path) -> None:
    """Its last run decides, and its name is printed: nobody takes a second try for a first."""
    runs = '<properties><property name="runs" value="2"/></properties>'
    cases = "".join(f'<testcase classname="c" name="n">{each}</testcase>' for each in ("", runs))
    (tmp_path / "a.xml").write_text(f"<testsuites>{cases}</testsuites>")

    result = count(tmp_path)

    assert "failed once, and was run again: c.n" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"


def test_no_test_at_all_is_a_failure(tmp_path: Path) -> None:
    """A run that found nothing to test has proved nothing."""
    result = count(tmp_path)

    assert result.stdout == "0 passed, 0 failed, 0 skipped\n"
    assert result.returncode == 1
