"""The commands that say why two arms differ: `why` and `why-accuracy`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from bench.cli.options import Fleet
from servekit.errors.tree import SettingInvalid

if TYPE_CHECKING:
    from bench.twin.causes import Explanation


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(why)
    app.command("why-accuracy")(why_accuracy)


def why(
    folder: Annotated[Path, typer.Argument(help="Directory of a saved comparison.")],
    fleet: Fleet = "h100",
) -> None:
    """Say why the two arms of a saved comparison differ, cause by cause.

    Timestamps of the client, counters of load balancer and engines, and routing decisions are
    joined; then the run is replayed in the simulator with one factor exchanged at a time.
    """
    from rich.console import Console

    from bench.experiments.why import show_why
    from bench.results.load import load_saved, together

    names, folders = _arms(folder)
    runs = [load_saved((folder / own).resolve()) for own in folders]
    if not show_why(together(runs[:1], runs[1:], names), fleet, folder, Console(width=120)):
        raise typer.Exit(1)


def _arms(folder: Path) -> tuple[tuple[str, str], list[str]]:
    """Return the names of the arms of a comparison and the first directory of each.

    Raises:
        SettingInvalid: there is none.
    """
    try:
        found: dict[str, Any] = msgspec.json.decode((folder / "comparison.json").read_bytes())
        folders = [one if isinstance(one, str) else one[0] for one in found["folders"]]
        return (found["baseline"], found["candidate"]), folders
    except (OSError, msgspec.DecodeError, KeyError, IndexError) as error:
        raise SettingInvalid(f"{folder} is not a saved comparison: {error}") from error


def why_accuracy(
    runs: Annotated[
        int, typer.Option(min=1, help="Number of runs per injected fault.", rich_help_panel="Load")
    ] = 10,
    markdown: Annotated[
        Path | None,
        typer.Option(help="Also write the table to this Markdown file.", rich_help_panel="Results"),
    ] = None,
) -> None:
    """Measure how often the right cause of an injected fault is named first.

    Faults: slow engine, cold cache, bad routing, buffering proxy, throttled link.
    """
    from rich.console import Console

    from bench.results.files import write_file
    from bench.twin import why_accuracy as job
    from bench.twin.why_text import accuracy_markdown

    console = Console()

    def told(fault: str, found: "Explanation | None") -> None:
        console.print(f"{fault}: {found.first if found else 'unknown'}", highlight=False)

    with tempfile.TemporaryDirectory() as folder:
        text = accuracy_markdown(job.measure(runs, Path(folder), told))
    console.print(text, highlight=False, markup=False)
    if markdown is not None:
        write_file(markdown, text)
