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
    folder: Annotated[Path, typer.Argument(help="Existing folder to write the dashboards to.")],
) -> None:
    """Write the Grafana dashboards as JSON files and print their paths."""
    if not folder.is_dir():
        raise SettingInvalid(f"{folder} is not a folder; create it first, or pass another")
    for board in BOARDS:
        path = folder / f"{board.uid}.json"
        path.write_text(as_json(board))
        typer.echo(path)


if __name__ == "__main__":
    run_program(app)
