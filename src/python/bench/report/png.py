"""Plots -> PNG, drawn by a headless Chromium.  Input and output: it starts the browser."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from bench.report import sections
from bench.report.charts import Plot
from servekit.errors.tree import EngineError, SettingInvalid

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# Pixels of the page, of which each becomes two by two in the picture; the frame is what stands
# around the drawing.
_WIDTH, _FRAME = 640, 100

# The first start of a browser on a busy machine took 8 s.
_TIMEOUT_S = 60.0


def find_browser(asked: str) -> str:
    """Return the browser to draw with: *asked*, or with `auto` the first that is installed.

    Raises:
        SettingInvalid: there is none.
    """
    names = BROWSERS if asked == "auto" else (asked,)
    for name in names:
        if found := shutil.which(name):
            return found
    raise SettingInvalid(
        f"--png requires Chromium; not found: {' or '.join(names)}; install it, set "
        "--browser, or open report.html, which has the same plots"
    )


def draw(plots: Sequence[Plot], names: str, browser: str) -> Iterator[tuple[Plot, bytes]]:
    """Yield each plot with its picture, on white.  *names* is the legend of what it compares.

    Raises:
        EngineError: the browser drew nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        for plot in plots:
            page = Path(folder) / f"{plot.name}.html"
            page.write_text(_page(plot, names))
            yield plot, _screenshot(page, browser, _height(plot))


def _height(plot: Plot) -> int:
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', plot.content)
    share = float(box[2]) / float(box[1]) if box else 1.0
    return round(_WIDTH * share) + _FRAME


def _page(plot: Plot, names: str) -> str:
    return (
        '<!doctype html><html><head><meta charset="utf-8"><meta name="color-scheme" '
        f'content="light"><style>{sections.style()}body{{padding:0;max-width:none}}'
        f'</style></head><body><figure class="wide"><h3>{escape(plot.title)}</h3>'
        f"{names}{plot.content}</figure></body></html>"
    )


def _screenshot(page: Path, browser: str, height: int) -> bytes:
    picture = page.with_suffix(".png")
    argv = [
        browser,
        *("--headless=new", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=2"),
        *("--blink-settings=preferredColorScheme=1", f"--window-size={_WIDTH + 28},{height}"),
        f"--user-data-dir={page.parent / 'profile'}",
        f"--screenshot={picture}",
    ]
    if os.geteuid() == 0:
        # Chromium refuses root inside its sandbox; the page is our own and fetches nothing.
        argv.append("--no-sandbox")
    try:
        done = subprocess.run(  # noqa: S603
            [*argv, page.as_uri()], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{browser} drew no {page.stem}.png: {error}") from error
    if not picture.exists():
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise EngineError(f"{browser} drew no {page.stem}.png: {said[-1][:200]}")
    return picture.read_bytes()
