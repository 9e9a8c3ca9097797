"""The dashboards as files: current, and made of what they name."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dashboards.board import Dashboard
from dashboards.boards import BOARDS
from dashboards.grafana import as_json
from dashboards.main import app
from tests.kubernetes.manifests import ROOT, read

FOLDER = ROOT / "monitoring/dashboards"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_the_committed_file_is_current(board: Dashboard) -> None:
    """`./pants run src/python/dashboards -- src/kubernetes/monitoring/dashboards` writes it."""
    assert (FOLDER / f"{board.uid}.json").read_text() == as_json(board)


def test_every_file_is_provisioned() -> None:
    """No dashboard is left behind in the folder, and none in the manifest is missing."""
    (generator,) = read("monitoring/kustomization.yaml")["configMapGenerator"]

    named = sorted(Path(name).name for name in generator["files"])
    assert named == sorted(path.name for path in FOLDER.glob("*.json"))
    assert named == sorted(f"{board.uid}.json" for board in BOARDS)
    assert generator["options"]["labels"] == {"grafana_dashboard": "1"}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_panels_are_told_apart(board: Dashboard) -> None:
    """By title for people, by number for Grafana; and none hides beneath another."""
    panels = json.loads(as_json(board))["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    titles = [panel.title for panel in board.panels]
    assert len(set(titles)) == len(titles)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_choice_in_an_expression_is_offered(board: Dashboard) -> None:
    """A variable that nobody sets would be sent to Prometheus as it is."""
    used = {
        name
        for panel in board.panels
        for query in panel.queries
        for name in re.findall(r"\$(\w+)", query.expr)
    }

    assert used - {"__rate_interval"} == {choice.name for choice in board.choices}


def test_the_program_writes_every_file(tmp_path: Path) -> None:
    """And says their names."""
    done = CliRunner().invoke(app, [str(tmp_path)])

    assert done.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{board.uid}.json" for board in BOARDS
    )


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    done = CliRunner().invoke(app, [str(tmp_path / "gone")])

    assert "is not a folder" in str(done.exception)
