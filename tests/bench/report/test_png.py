"""Plots as PNG, with a program that stands for the browser."""

from pathlib import Path

import pytest

from bench.report.charts import Plot
from bench.report.png import draw, find_browser
from servekit.errors.tree import EngineError, SettingInvalid
from tests.support.python_program import python_program

PLOT = Plot("ttft", "TTFT <ms>", '<svg viewBox="0 0 380 190"></svg>')

DRAWS = """
import sys, urllib.parse, urllib.request
options = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a and a.startswith("--"))
page = urllib.request.urlopen(sys.argv[-1]).read()
open(options["--screenshot"], "wb").write(options["--window-size"].encode() + b" " + page)
"""


def test_each_plot_is_drawn_with_title_and_legend(tmp_path: Path) -> None:
    """In a window of the plot's own shape; names from outside are escaped."""
    browser = python_program(tmp_path / "browser", DRAWS)

    ((plot, picture),) = draw([PLOT], '<div class="legend">a, b</div>', browser)

    assert plot is PLOT
    assert picture.startswith(b"668,420 ")
    assert b"TTFT &lt;ms&gt;" in picture
    assert b"a, b" in picture
    assert b"<svg" in picture


def test_a_browser_that_draws_nothing_is_an_error(tmp_path: Path) -> None:
    """With the last line that it said."""
    browser = python_program(tmp_path / "browser", "import sys; sys.exit('no display')")

    with pytest.raises(EngineError, match=r"drew no ttft.png: no display"):
        list(draw([PLOT], "", browser))


def test_without_a_browser_the_message_says_what_to_do(tmp_path: Path) -> None:
    """Before anything is measured, not after."""
    with pytest.raises(SettingInvalid, match="requires Chromium; not found"):
        find_browser(str(tmp_path / "none"))


def test_a_browser_that_is_named_is_taken(tmp_path: Path) -> None:
    """Wherever it is."""
    browser = python_program(tmp_path / "browser", DRAWS)

    assert find_browser(browser) == browser
