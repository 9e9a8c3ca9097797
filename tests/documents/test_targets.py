"""What documents say of targets and of tests that are programs, asked of Pants and of those."""

import re
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT
from tests.documents.test_commands import DOCUMENTS, PANTS, PYTHONS
from tests.documents.typed_commands import TypedCommand, commands_in
from tests.support.programs import environ

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


# Only what is asked for need be whole here.
QUIET = ("--no-pantsd", "--no-dynamic-ui", "--unmatched-build-file-globs=ignore")


def _is_no_option(word: str) -> bool:
    return not word.startswith(("-", "["))


def typed() -> list[TypedCommand]:
    return [c for document in DOCUMENTS for c in commands_in((ROOT / document).read_text())]


def test_pants_knows_every_target(tmp_path: Path) -> None:
    """Asked of a copy, since a sandbox has links that Pants refuses."""
    root = tmp_path / "repository"
    links = (".git", ".cache", ".pants.d", ".python-build-standalone", ".hypothesis", ".*_cache")
    ignored = shutil.ignore_patterns(*links, "__pycache__", "node_modules", "dist")
    shutil.copytree(ROOT, root, ignore=ignored)
    addresses = {
        word
        for command in typed()
        if command.words[0] in PANTS
        for word in command.words[1 : (*command.words, "--").index("--")]
        if "/" in word and not word.startswith("-")
    }

    done = subprocess.run(  # noqa: S603
        [root / "pants", *QUIET, "list", *sorted(addresses)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )

    assert len(addresses) > 10
    assert done.returncode == 0, done.stderr[-2000:]


def test_programs_among_the_tests_know_their_options() -> None:
    """Benchmarks that are no tests: `python -m tests.loadbalancer.cost`."""
    commands = {
        command.words[2:]
        for command in typed()
        if command.words[0] in PYTHONS and command.words[1:2] == ("-m",)
    }
    wrong = []
    for module, *words in sorted(c for c in commands if c[0].startswith("tests.")):
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", module, *takewhile(_is_no_option, words), "--help"],
            cwd=ROOT,
            env=environ(),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        options = set(re.findall(r"--[a-z][\w-]*", done.stdout))
        unknown = [w for w in words if w.startswith("--") and w.partition("=")[0] not in options]
        if done.returncode or unknown:
            wrong.append(f"{module}: {done.stderr[-300:] or unknown}")

    assert wrong == []
