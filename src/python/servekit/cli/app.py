"""The command line of every program: plain text, options under headings, `--version`.  Pure.

    app = ProgramApp("simulator")

    @app.command()
    def simulate(...) -> None: ...

An option with `rich_help_panel="Routing"` is listed under that heading; a name of it that is marked
as `old_name("--most")` still works and is not listed.  Output is the same in a terminal, in a pipe
and in a log: no boxes, no colours.
"""

import copy
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandFunctionType

from servekit.cli.options import OldName
from servekit.cli.version import VERSION

# The heading of options that name none, as click has it.
_OTHER = "Options"


class SectionedCommand(TyperCommand):
    """A command whose help lists its options under their headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_sections(self, ctx, formatter)


class SectionedGroup(TyperGroup):
    """A group of commands whose help lists its own options under their headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_sections(self, ctx, formatter)
        self.format_commands(ctx, formatter)


class ProgramApp(typer.Typer):
    """The commands of one program, which `servekit.cli.program.run_program` runs.

    Attributes:
        program: its name, as in `servekit-NAME`.
    """

    def __init__(self, program: str, **kwargs: Any) -> None:
        super().__init__(cls=SectionedGroup, add_completion=False, rich_markup_mode=None, **kwargs)
        self.program = program

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **kwargs: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        return super().command(name, cls=cls or SectionedCommand, **kwargs)


def command_line(app: typer.Typer) -> Any:
    """Return the click command of *app*, with `--version` where it is a program's."""
    command = typer.main.get_command(app)
    if isinstance(app, ProgramApp):
        _add(_version_option(app.program), command)
    return command


def _add(option: Any, command: Any) -> None:
    """Add *option* to *command* and to all commands below it."""
    command.params.append(option)
    for below in getattr(command, "commands", {}).values():
        _add(option, below)


def _version_option(program: str) -> Any:
    """Return the option as typer makes it: its own constructor is not for others."""

    def show(asked: bool) -> None:
        if asked:
            typer.echo(f"servekit-{program.replace('_', '-')} {VERSION}")
            raise typer.Exit

    app = typer.Typer(add_completion=False)

    @app.command()
    def command(
        *,
        version: Annotated[  # its callback ends the program
            bool,
            typer.Option(
                "--version", callback=show, is_eager=True, help="Show the version and exit."
            ),
        ] = False,
    ) -> None: ...

    (option,) = typer.main.get_command(app).params
    option.expose_value = False
    return option


def _write_sections(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        row = _without_old_names(parameter).get_help_record(ctx)
        if row is not None:
            argument = parameter.param_type_name == "argument"
            heading = getattr(parameter, "rich_help_panel", None)
            sections.setdefault(heading or ("Arguments" if argument else _OTHER), []).append(row)
    # What has no heading of its own comes last: --version and --help.
    for heading in sorted(sections, key=lambda name: name == _OTHER):
        with formatter.section(heading):
            formatter.write_dl(sections[heading])


def _without_old_names(parameter: Any) -> Any:
    shown = copy.copy(parameter)
    shown.opts = [name for name in parameter.opts if not isinstance(name, OldName)]
    return shown
