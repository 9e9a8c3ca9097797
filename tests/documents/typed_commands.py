"""Documents -> the commands that they tell a reader to type.  Pure.

A command stands in a fenced block without a language (or of a shell), in an indented one, or
between backticks.  What stands there and begins with no known word is output, or a file.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

# Programs of others, and what a reader needs to run them: they are not run here.
OTHERS = {
    "aiperf": "aiperf",
    "cog": "Cog and Docker",
    "curl": "a server",
    "docker": "Docker",
    "functions-framework": "its package",
    "kubectl": "a cluster",
    "modal": "an account at Modal",
    "npm": "Node.js",
    "pip": "the package index",
    "sed": "a file",
    "terraform": "an account at a cloud",
    "uv": "uv",
    "wrk": "wrk",
}
# They stand before a command and change nothing about it.
_BEFORE = {"taskset": 2, "nice": 0, "time": 0}
_SHELLS = ("", "bash", "console", "sh", "shell")
# A command within a sentence or a table, between backticks.
_INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:\./pants|pants|python -m|pytest) [^`]+)`")
_SET = re.compile(r"[A-Z][A-Z0-9_]*=")


@dataclass(frozen=True)
class TypedCommand:
    """A command, where it stands, and the folder that the document has gone to by then."""

    line: int
    words: tuple[str, ...]
    folder: str = ""


def commands_in(document: str) -> Iterator[TypedCommand]:
    """Yield the commands of a Markdown *document*, in order."""
    folder = ""
    for number, text in _joined(_code_lines(document)):
        for words in _simple_commands(text):
            if words[0] == "cd" and len(words) == 2:
                folder = words[1]
            else:
                yield TypedCommand(number, words, folder)


def _code_lines(document: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of code blocks; an empty one between two blocks."""
    fence: str | None = None
    for number, line in enumerate(document.splitlines(), 1):
        if opened := re.match(r"```(\w*)", line):
            fence = opened[1] if fence is None else None
        elif fence is not None:
            yield number, line if fence in _SHELLS else ""
        elif line.startswith("    "):
            yield number, line[4:]
        else:
            yield number, ""
            yield from ((number, span) for span in _INLINE.findall(line))


def _joined(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield commands that go on after a backslash as one line."""
    begun: tuple[int, str] | None = None
    for number, line in lines:
        first, so_far = begun or (number, "")
        whole = f"{so_far} {line.strip()}".strip()
        begun = (first, whole[:-1].rstrip()) if whole.endswith("\\") else None
        if begun is None and whole:
            yield first, whole


def _simple_commands(text: str) -> Iterator[tuple[str, ...]]:
    """Yield what the shell would run of one line, without variables, comments and redirections."""
    lexer = shlex.shlex(text.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        # An unclosed quote: prose, or output.
        return
    own: list[str] = []
    skipped = False
    for word in [*words, ";"]:
        if word in ("&&", "||", "|", ";", "&"):
            if own := _without_prefix(own):
                yield tuple(own)
            own, skipped = [], False
        elif word in (">", ">>", "<"):
            skipped = True
        elif not skipped:
            own.append(word)


def _without_prefix(words: list[str]) -> list[str]:
    while words and (_SET.match(words[0]) or words[0] in _BEFORE):
        words = words[1 + _BEFORE.get(words[0], 0) :]
    return words
