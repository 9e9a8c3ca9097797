"""Commands whose options come in groups."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import typer

from servekit.cli.app import ProgramApp, command_line
from servekit.cli.options import grouped, old_name
from servekit.cli.version import VERSION


@dataclass(frozen=True, slots=True)
class Kept:
    HEADING: ClassVar[str] = "Results"
    folder: Annotated[str, typer.Option("--folder", "--place", help="Where.")] = "results"
    parquet: bool = False


def called_with(*argv: str) -> tuple[str, Kept]:
    seen: list[tuple[str, Kept]] = []

    def command(name: str, kept: Kept) -> None:
        seen.append((name, kept))

    app = typer.Typer()
    app.command()(grouped(command))
    app(list(argv), standalone_mode=False)
    return seen[0]


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        ((), Kept()),
        (("--folder", "a"), Kept("a")),
        (("--place", "b", "--parquet"), Kept("b", parquet=True)),
    ],
)
def test_a_group_is_built_from_its_options(argv: tuple[str, ...], kept: Kept) -> None:
    """Each field is an option, under all its names, with the group's default."""
    assert called_with("x", *argv) == ("x", kept)


def test_what_a_group_does_not_have_is_no_option() -> None:
    """A mistake is told as for any other command."""
    with pytest.raises(Exception, match="No such option"):
        called_with("x", "--nonsense", "1")


def test_help_lists_a_group_under_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    """Plain text: a heading, its options, and what belongs to no group last."""
    app = ProgramApp("my_program")

    @app.command()
    @grouped
    def command(kept: Kept, *, name: str = "") -> None: ...

    command_line(app)(["--help"], standalone_mode=False)

    said = capsys.readouterr().out
    results, rest = said.split("Results:")[1].split("Options:")
    assert "--folder, --place <str>" in results
    assert "--parquet" in results
    assert "--name" in rest
    assert "--version" in rest
    assert "\N{BOX DRAWINGS LIGHT HORIZONTAL}" not in said


def test_version_is_shown_and_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Under the name of the wheel, for a program of one command as of several."""
    app = ProgramApp("my_program")

    @app.command()
    def command() -> None:
        raise AssertionError

    command_line(app)(["--version"], standalone_mode=False)

    assert capsys.readouterr().out == f"servekit-my-program {VERSION}\n"


def test_a_former_name_works_and_is_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts go on as they are; whoever reads the help learns one name."""
    app, seen = ProgramApp("my_program"), []

    @app.command()
    def command(
        *, most: Annotated[int, typer.Option("--max", "-x", old_name("--most"), help="Max.")] = 1
    ) -> None:
        seen.append(most)

    for argv in (["--max", "2"], ["--most", "3"], ["-x", "4"], ["--most=5"]):
        command_line(app)(argv, standalone_mode=False)
    command_line(app)(["--help"], standalone_mode=False)
    text = capsys.readouterr().out

    assert seen == [2, 3, 4, 5]
    assert "--max" in text
    assert "--most" not in text


@pytest.mark.parametrize("path", [[], ["one"], ["group", "two"]])
def test_every_command_says_its_version(
    path: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`--version` may follow any command; nothing of the command is run."""
    app, group = ProgramApp("my_program"), typer.Typer()

    @app.command()
    def one(needed: str) -> None:
        raise AssertionError(needed)

    @group.command()
    def two(needed: str) -> None:
        raise AssertionError(needed)

    @group.callback()
    def callback() -> None: ...

    app.add_typer(group, name="group")

    command_line(app)([*path, "--version"], standalone_mode=False)

    assert capsys.readouterr().out == f"servekit-my-program {VERSION}\n"
