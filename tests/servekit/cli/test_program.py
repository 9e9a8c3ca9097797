"""How a program ends."""

import pytest
import typer

from servekit.cli.program import run_program
from servekit.errors.tree import EngineUnreachable, SettingInvalid


def _app(failure: BaseException | None) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def main(count: int = 0) -> int:
        if failure is not None:
            raise failure
        return count

    return app


def _exit_code(app: typer.Typer, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", ["program", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_program(app)
    return stop.value.code


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (None, 0),
        (SettingInvalid("PORT is 'x'"), 2),
        (EngineUnreachable("no engine at http://127.0.0.1:1"), 1),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
        (typer.Exit(3), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_code_says_who_must_act(
    failure: BaseException | None,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """0 done, 1 failed, 2 used wrongly, 130 stopped; one line on stderr and no traceback."""
    assert _exit_code(_app(failure), monkeypatch) == code

    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.count("\n") <= 1


def test_wrong_flag_is_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag that does not exist exits with 2 and names it."""
    assert _exit_code(_app(None), monkeypatch, "--nonsense") == 2
    assert "--nonsense" in capsys.readouterr().err


def test_wrong_value_is_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value of the wrong type exits with 2 and names it."""
    assert _exit_code(_app(None), monkeypatch, "--count", "many") == 2
    assert "--count" in capsys.readouterr().err
