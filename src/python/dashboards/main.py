"""`dashboards`: write Grafana's dashboards, as src/kubernetes/monitoring provisions them."""

from pathlib import Path
from typing import Annotated

import typer

from dashboards.boards import BOARDS
from dashboards.grafana import as_json
from servekit.cli.app import ProgramApp
from servekit.cli.program import run_program
from servekit.errors.tree import SettingInvalid

app = ProgramApp("dashboards")


@app.command()
def write(
    folder: Annotated[Path, typer.Argument(help="where the files go; it must be there")],
) -> None:
    """Write one file for each dashboard, and say its name."""
    if not folder.is_dir():
        raise SettingInvalid(f"{folder} is no folder; make it, or name another")
    for board in BOARDS:
        path = folder / f"{board.uid}.json"
        path.write_text(as_json(board))
        typer.echo(path)


if __name__ == "__main__":
    run_program(app)
