"""What a document tells a reader to type exists: programs, their options, scripts, files."""

import ast
import contextlib
import importlib.util
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.repository import PYTHON, ROOT
from tests.documents.typed_commands import OTHERS, TypedCommand, commands_in
from tests.support.command_lines import command_line_of

# As documents call a program of ours beside `python -m`.
ALIASES = {"runner": "bench.runner", "modal_embedding": "modal_embedding.main"}
PYTHONS = ("python", "python3")
PANTS = ("./pants", "pants")

# The pages of docs/seeds quote what others' documents tell to type.
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "src/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
    if not {"node_modules", "seeds"} & set(path.parts) and path.name != "CHANGELOG.md"
)


class NotTypable(AssertionError):
    """A reader who types it gets an error."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_can_be_typed(document: str) -> None:
    """Its program is there, and knows its commands and options; files that it names exist."""
    found = commands_in((ROOT / document).read_text())

    assert wrong_among(found, Path(document).parent) == []


@pytest.mark.parametrize("program", sorted(path.name for path in PYTHON.iterdir() if path.is_dir()))
def test_every_command_of_a_docstring_can_be_typed(program: str) -> None:
    """Where a module says how it is started."""
    wrong = {}
    for path in sorted((PYTHON / program).rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        if found := wrong_among(commands_in(text), path.parent.relative_to(ROOT)):
            wrong[path.name] = found

    assert wrong == {}


@pytest.mark.parametrize(
    "planted",
    [
        "python -m bench.runner run --url URL --no-such-option 1",
        "python -m bench.runner no-such-command",
        "python -m bench.no_such_module",
        "./pants run src/python/bench:runner -- compare A",
        "./pants run src/python/nothing:here",
        "cd docs && ../build-support/no-such-script",
        "X=1 taskset -c 0 python -m loadbalancer.managed --no-such-option",
        "pytest tests/no/such/test.py",
    ],
)
def test_a_lie_is_noticed(planted: str) -> None:
    """Each kind that a document can tell."""
    assert len(wrong_among(commands_in(f"Type this:\n\n    {planted}\n"), Path())) == 1


def wrong_among(commands: Iterable[TypedCommand], here: Path) -> list[str]:
    """Return those that a reader cannot type, with the reason."""
    wrong = []
    for command in commands:
        try:
            check(command, here)
        except NotTypable as error:
            wrong.append(f"line {command.line}: {' '.join(command.words)}: {error}")
    return wrong


def check(command: TypedCommand, here: Path) -> None:
    """Raise NotTypable if *command*, in a document of folder *here*, would be refused."""
    name, *arguments = command.words
    if name in PANTS:
        check_pants(arguments)
    elif name in PYTHONS and arguments[:1] == ["-m"]:
        check_module(arguments[1], arguments[2:])
    elif name in PYTHONS:
        script = next(word for word in arguments if not word.startswith("-"))
        check_file(script, command.folder, here)
    elif name in ALIASES:
        check_module(ALIASES[name], arguments)
    elif name.endswith("pytest"):
        for argument in arguments:
            if argument.startswith("tests/"):
                check_file(argument, command.folder, here)
    elif "/" in name and name not in OTHERS and looks_like_a_path(name):
        check_file(name, command.folder, here)


def looks_like_a_path(word: str) -> bool:
    """Not a sum, a URL, a header or a table row."""
    return all(character.isalnum() or character in "._-/" for character in word)


def check_file(name: str, folder: str, here: Path) -> None:
    places = (ROOT, ROOT / here, ROOT / folder, ROOT / here / folder)
    # A folder that the document itself has made has what its maker puts there.
    made = folder and not (ROOT / folder).is_dir() and not (ROOT / here / folder).is_dir()
    found = (place / name for place in places)
    if not made and not any(path.exists() for path in found):
        raise NotTypable(f"{name} does not exist")


def check_pants(arguments: Sequence[str]) -> None:
    """What stands behind `--` is for the program that it runs."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    theirs = arguments[len(own) + 1 :]
    for argument in own:
        if "/" in argument and not argument.startswith("-"):
            folder = argument.partition(":")[0].rstrip(":")
            if not (ROOT / folder).exists():
                raise NotTypable(f"{folder} does not exist")
            if "run" in own and folder.startswith("src/python/"):
                check_module(module_of(argument), theirs)


def module_of(address: str) -> str:
    """The module of a program's target, by the rule that all of them follow."""
    folder, _, name = address.removeprefix("src/python/").partition(":")
    return f"{folder}.{name}" if (PYTHON / folder / f"{name}.py").exists() else f"{folder}.main"


def check_module(module: str, arguments: Sequence[str]) -> None:
    if module.startswith("tests."):
        check_file(f"{module.replace('.', '/')}.py", "", Path())
        return
    if importlib.util.find_spec(module) is None:
        raise NotTypable(f"there is no module {module}")
    if command := command_line_of(module):
        check_words(command, list(arguments))


def check_words(command: Any, arguments: list[str]) -> None:
    """Let *command* read its words, and do nothing; values may be placeholders."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            context = command.make_context(command.name or "", arguments)
            below = getattr(command, "resolve_command", None)
            left = [*getattr(context, "_protected_args", []), *context.args]
            if below is not None and left:
                _, command, left = below(context, left)
                check_words(command, left)
    except SystemExit as error:
        raise NotTypable("refused") from error
    except Exception as error:
        if type(error).__name__ in ("NoSuchOption", "NoSuchCommand", "MissingParameter"):
            raise NotTypable(getattr(error, "message", "") or str(error)) from error
        if type(error).__name__ == "UsageError":
            raise NotTypable(str(error)) from error
        # A value that stands for the reader's own: URL, PORT, a file of theirs.
        if type(error).__name__ != "BadParameter":
            raise
