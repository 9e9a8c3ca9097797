"""Tests for the choice of what a CI run looks at.

The script runs in a git repository of the test's own; only Pants itself is a recorder there.
"""

import copy
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "build-support/ci/targets"

# Says which addresses it was asked about, and for files which are different in the two trees.
PANTS = """#!/usr/bin/env bash
echo "$*" >>calls
case " $* " in
  *" --changed-diffspec="*)
    [[ $1 =~ =(.*) ]]
    git diff-tree --name-only -r "${BASH_REMATCH[1]}" | sed 's/$/:owner/' ;;
  *" dependents "*) shift 3; printf '%s\\n' "$@" | sed 's/^/user-of-/' ;;
  *" list "*) shift 2; printf '%s:file\\n' "$@" ;;
esac
exit "${PANTS_EXIT:-0}"
"""
PINS = {
    "3rdparty/python/requirements.txt": "# ours\nfastapi==0.*\naiohttp==3.*\nmsgspec==0.*\n",
    "3rdparty/python/pytest.txt": "pytest==9.*\n",
    "3rdparty/python/schemathesis.txt": "schemathesis==4.*\n",
    "3rdparty/python/servekit.lock": """\
aiohttp==3.1 \\
    --hash=sha256:aa
    # via -r 3rdparty/python/requirements.txt
fastapi==0.1 \\
    --hash=sha256:ff
    # via
    #   -r 3rdparty/python/requirements.txt
    #   schemathesis
idna==1.0 \\
    --hash=sha256:11
    # via yarl
msgspec==0.2 \\
    --hash=sha256:22
pytest==9.1 \\
    --hash=sha256:33
    # via schemathesis
schemathesis==4.1 \\
    --hash=sha256:44
starlette==1.0 \\
    --hash=sha256:55
    # via fastapi
yarl==1.0 ; python_version >= "3" \\
    --hash=sha256:66
    # via aiohttp
""",
}
LOCK = "3rdparty/python/servekit.lock"


class Repository:
    """A git repository with our script in it, and a branch `main` that we have left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._script = folder / "build-support/ci/targets"
        self._script.parent.mkdir(parents=True)
        self._script.write_text(SCRIPT.read_text())
        self._script.chmod(0o755)
        (folder / "pants").write_text(PANTS)
        (folder / "pants").chmod(0o755)
        (folder / ".gitignore").write_text("calls\ndist\n")
        self._git("init", "--quiet", "--initial-branch=main")
        for path, text in PINS.items():
            self.write(path, text)
        self.commit("src/python/servekit/metrics/names.py")
        self._git("checkout", "--quiet", "-b", "work")

    def _git(self, *args: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
        command = ("git", *identity, *args)
        return subprocess.run(  # noqa: S603
            command, cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def write(self, path: str, text: str = "") -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def commit(self, path: str, text: str = "") -> None:
        self.write(path, text)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", path)

    def copy(self, folder: Path) -> "Repository":
        """The same repository in another folder, which costs no call of git."""
        other = copy.copy(self)
        shutil.copytree(self.folder, folder)
        other.folder, other._script = folder, folder / "build-support/ci/targets"
        return other

    def change(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text()
        assert old in text
        self.commit(path, text.replace(old, new))

    def remove(self, path: str) -> None:
        self._git("rm", "--quiet", path)
        self._git("commit", "--quiet", "--message", path)

    def switch(self, branch: str) -> None:
        self._git("checkout", "--quiet", branch)

    def run(
        self, *args: str, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603
            (str(self._script), *args),
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", **(environ or {})},
        )

    def selected(self, *args: str) -> set[str]:
        """The addresses of the file that the script's answer names."""
        said = self.run(*args, "main").stdout
        if not said:
            return set()
        match = re.fullmatch(r"--spec-files=(.+)\n", said)
        assert match, said
        return set((self.folder / match[1]).read_text().split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("made") / "repository")


@pytest.fixture
def repository(made: Repository, tmp_path: Path) -> Repository:
    return made.copy(tmp_path / "repository")


def test_no_base_means_everything(repository: Repository) -> None:
    """The main branch is looked at whole."""
    assert repository.run().stdout == "::\n"


def test_pull_request_is_looked_at_from_where_it_left(repository: Repository) -> None:
    """Commits that the base branch gained meanwhile are not the pull request's."""
    repository.switch("main")
    repository.commit("src/python/other.py", "changed on main")
    repository.switch("work")
    repository.commit("src/python/servekit/metrics/parse.py")

    assert repository.selected() == {"src/python/servekit/metrics/parse.py:owner"}
    assert "--changed-dependents=transitive list" in (repository.folder / "calls").read_text()


def test_what_is_not_committed_counts_too(repository: Repository) -> None:
    """Edited, new or removed: what a developer has before a commit."""
    repository.write("src/python/servekit/metrics/names.py", "edited")
    repository.write("src/new.py", "new")

    assert repository.selected() == {
        "src/python/servekit/metrics/names.py:owner",
        "src/new.py:owner",
    }


def test_no_change_selects_nothing(repository: Repository) -> None:
    """And says so by saying nothing."""
    assert repository.run("main").stdout == ""


@pytest.mark.parametrize(
    "path",
    [
        "pants",
        "pants.toml",
        "pants.ci.toml",
        "BUILD",
        "build-support/pants/pants.lock",
        "build-support/plugins/program_sources/register.py",
        "build-support/images.build",
    ],
)
def test_what_everything_is_built_with_means_everything(repository: Repository, path: str) -> None:
    """One such file among others is enough, whatever the goal."""
    repository.commit("src/python/servekit/metrics/parse.py")
    repository.commit(path, "changed")

    for goal in ((), ("--goal", "lint"), ("--goal", "check"), ("--goal", "test")):
        assert repository.run(*goal, "main").stdout == "::\n"


@pytest.mark.parametrize(
    ("path", "goal"),
    [
        ("ruff.toml", "lint"),
        ("3rdparty/python/ruff.lock", "lint"),
        ("build-support/plugins/ruff_current/register.py", "lint"),
        ("3rdparty/python/mypy.ini", "check"),
        ("3rdparty/python/pytest.lock", "test"),
        ("pytest.ini", "test"),
    ],
)
def test_a_tool_matters_to_its_goal_only(repository: Repository, path: str, goal: str) -> None:
    """A new linter runs no test, unless a test looks at the file."""
    repository.commit(path, "changed")

    for other in ("lint", "check", "test"):
        everything = repository.run("--goal", other, "main").stdout == "::\n"
        assert everything == (other == goal)
    assert repository.run("main").stdout == "::\n"


@pytest.mark.parametrize("path", ["src/python/BUILD", "docs/pants.toml", "pants_notes.md"])
def test_similar_names_do_not_mean_everything(repository: Repository, path: str) -> None:
    """Only the root's files count, by their whole names."""
    repository.commit(path, "changed")

    assert repository.selected() == {f"{path}:owner"}


@pytest.mark.parametrize(
    ("old", "new", "requirements"),
    [
        ("idna==1.0", "idna==1.1", {"3rdparty/python#aiohttp"}),
        ("sha256:11", "sha256:12", {"3rdparty/python#aiohttp"}),
        ("msgspec==0.2", "msgspec==0.3", {"3rdparty/python#msgspec"}),
        (
            "starlette==1.0",
            "starlette==1.1",
            {"3rdparty/python#fastapi", "3rdparty/python:contracts#schemathesis"},
        ),
        (
            "pytest==9.1",
            "pytest==9.2",
            {"3rdparty/python:testing#pytest", "3rdparty/python:contracts#schemathesis"},
        ),
        ('python_version >= "3"', 'python_version >= "4"', {"3rdparty/python#aiohttp"}),
        ("    # via yarl\n", "    # via\n    #   yarl\n", set()),
    ],
)
def test_a_pin_selects_those_whose_closure_it_is_in(
    repository: Repository, old: str, new: str, requirements: set[str]
) -> None:
    """By the lock's own comments; and whoever reads the lock as a file."""
    repository.change(LOCK, old, new)

    assert repository.selected() == {f"user-of-{name}" for name in {*requirements, f"{LOCK}:file"}}


def test_a_new_edge_in_the_lock_counts(repository: Repository) -> None:
    """A package that one more asks for now, by the lock as it is."""
    added = "zope==1 \\\n    --hash=sha256:77\n    # via msgspec\n"
    repository.commit(LOCK, PINS[LOCK] + added)

    assert "user-of-3rdparty/python#msgspec" in repository.selected()


def test_a_dropped_package_counts(repository: Repository) -> None:
    """By the lock as it was."""
    repository.commit(LOCK, PINS[LOCK].partition("yarl==")[0])

    assert "user-of-3rdparty/python#aiohttp" in repository.selected()


def test_pins_and_files_are_selected_together(repository: Repository) -> None:
    """Of a commit that raises a package and mends what it broke."""
    repository.change(LOCK, "msgspec==0.2", "msgspec==0.3")
    repository.commit("src/one.py", "changed")

    assert {"src/one.py:owner", "user-of-3rdparty/python#msgspec"} <= repository.selected()


def test_a_requirement_that_was_added_is_selected(repository: Repository) -> None:
    """Its comment aside."""
    path = "3rdparty/python/requirements.txt"
    repository.commit(path, PINS[path].replace("# ours", "# ours, all") + "zstandard==0.*\n")

    assert repository.selected() == {
        "user-of-3rdparty/python#zstandard",
        f"user-of-{path}:file",
    }


def test_a_removed_lock_means_everything(repository: Repository) -> None:
    """A file that is gone has changed as well."""
    repository.remove(LOCK)

    assert repository.run("main").stdout == "::\n"


def test_an_unknown_base_is_an_error(repository: Repository) -> None:
    """One line says what is missing, and the run does not go on with too little."""
    result = repository.run("no-such-branch")

    assert result.returncode == 2
    assert result.stdout == ""
    assert "'no-such-branch' shares no commit with HEAD" in result.stderr


def test_a_selection_that_pants_cannot_make_is_an_error(repository: Repository) -> None:
    """Rather than an empty one."""
    repository.commit("src/one.py", "changed")

    result = repository.run("main", environ={"PANTS_EXIT": "1"})

    assert result.returncode == 2
    assert result.stdout == ""
