"""Every program's command line: what `--help` says of each command and option."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from servekit.cli.app import ProgramApp, command_line
from tests.architecture.repository import PYTHON
from tests.support.command_lines import app_of

# Modules with a ProgramApp named `app`.
PROGRAMS = sorted(
    ".".join(path.relative_to(PYTHON).with_suffix("").parts)
    for path in PYTHON.rglob("*.py")
    if "run_program(app)" in path.read_text()
)


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """*command* and all below it, by how they are typed."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from commands(below, f"{path} {name}")


def program(module: str) -> tuple[ProgramApp, list[tuple[str, Any]]]:
    app = app_of(module)
    return app, list(commands(command_line(app), module))


@pytest.mark.parametrize("module", PROGRAMS)
def test_every_option_has_help_that_stands_alone(module: str) -> None:
    """A sentence: it begins with a capital or a symbol, and ends with a full stop."""
    missing = []
    for path, command in program(module)[1]:
        for option in command.params:
            # What stands in brackets at the end is the default.
            text = re.sub(r"\s+\[[^]]*\]$", "", getattr(option, "help", None) or "")
            if getattr(option, "hidden", False):
                continue
            if not re.match(r"[^a-z].*\.$", text):
                missing.append(f"{path} {'/'.join(option.opts)}: {text!r}")

    assert missing == []


@pytest.mark.parametrize("module", PROGRAMS)
def test_every_command_says_what_it_does(module: str) -> None:
    """In its first line, which the list of commands shows."""
    assert [path for path, command in program(module)[1] if not command.help] == []


@pytest.mark.parametrize("module", PROGRAMS)
def test_every_program_has_a_version(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its name and a number, before anything is looked at or started."""
    app, _ = program(module)

    command_line(app)(["--version"], standalone_mode=False)

    name, version = capsys.readouterr().out.split()
    assert name == f"servekit-{app.program.replace('_', '-')}"
    assert version[0].isdigit()
