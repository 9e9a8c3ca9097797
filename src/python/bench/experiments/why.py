"""Say why the arms of a comparison differ, and keep it with its results.  Input and output."""

from pathlib import Path

from rich.console import Console

from bench.loadgen.run_result import RunResult
from bench.results.comparison_json import pretty
from bench.results.files import write_files
from bench.twin.causes import explain
from bench.twin.why_text import why_markdown
from servekit.fleet.fleet import load_fleet

_UNKNOWN = (
    "why they differ is unknown: responses were not streamed, or no /metrics of the engines was at "
    "hand"
)


def show_why(run: RunResult, fleet: str, folder: Path, console: Console) -> bool:
    """Print why the arms of *run* differ, and keep it in *folder*; return whether it is known.

    *fleet* says what engines are like.
    """
    found = explain(run, load_fleet(fleet))
    if found is None or not found.is_replayed:
        console.print(_UNKNOWN, highlight=False, soft_wrap=True)
        return False
    text = why_markdown(found)
    write_files(folder, {"why.md": text, "why.json": pretty(found)})
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    return True
