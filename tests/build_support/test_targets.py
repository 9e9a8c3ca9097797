"""Tests for the choice of what a CI run looks at."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "build-support/ci/targets"


class Repository:
    """A git repository with our script in it, and a branch `main` that we have left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._script = folder / "build-support/ci/targets"
        self._script.parent.mkdir(parents=True)
        self._script.write_text(SCRIPT.read_text())
        self._script.chmod(0o755)
        self._git("init", "--quiet", "--initial-branch=main")
        self.commit("src/python/servekit/metrics/names.py")
        self.left_at = self._git("rev-parse", "HEAD")
        self._git("checkout", "--quiet", "-b", "work")

    def _git(self, *args: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
        command = ("git", *identity, *args)
        return subprocess.run(  # noqa: S603
            command, cwd=self._folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, path: str, text: str = "") -> None:
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", path)

    def remove(self, path: str) -> None:
        self._git("rm", "--quiet", path)
        self._git("commit", "--quiet", "--message", path)

    def switch(self, branch: str) -> None:
        self._git("checkout", "--quiet", branch)

    def merge(self, branch: str) -> None:
        self._git("merge", "--quiet", branch)

    def targets(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603
            (str(self._script), *args), capture_output=True, text=True, check=False
        )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def test_no_base_means_everything(repository: Repository) -> None:
    """The main branch is looked at whole."""
    assert repository.targets().stdout == "::\n"


def test_pull_request_is_looked_at_from_where_it_left(repository: Repository) -> None:
    """Commits that the base branch gained meanwhile are not the pull request's."""
    repository.switch("main")
    repository.commit("pants.toml", "changed on main")
    repository.switch("work")
    repository.commit("src/python/servekit/metrics/parse.py")

    args = repository.targets("main").stdout.split()

    assert args == [f"--changed-since={repository.left_at}", "--changed-dependents=transitive"]


@pytest.mark.parametrize(
    "path",
    [
        "pants",
        "pants.toml",
        "pants.ci.toml",
        "BUILD",
        "3rdparty/python/servekit.lock",
        "build-support/pants/pants.lock",
        "build-support/plugins/ruff_current/register.py",
        "build-support/wheels.build",
        "src/python/BUILD",
    ],
)
def test_what_everything_is_built_with_means_everything(repository: Repository, path: str) -> None:
    """One such file among others is enough."""
    repository.commit("src/python/servekit/metrics/parse.py")
    repository.commit(path, "changed")

    assert repository.targets("main").stdout == "::\n"


@pytest.mark.parametrize("path", ["src/python/bench/BUILD", "docs/pants.toml", "pants_notes.md"])
def test_similar_names_do_not_mean_everything(repository: Repository, path: str) -> None:
    """Only the root's files count, by their whole names."""
    repository.commit(path, "changed")

    assert "--changed-since=" in repository.targets("main").stdout


def test_a_removed_lock_means_everything(repository: Repository) -> None:
    """A file that is gone has changed as well."""
    repository.switch("main")
    repository.commit("3rdparty/python/old.lock")
    repository.switch("work")
    repository.commit("README.md")
    repository.merge("main")
    repository.remove("3rdparty/python/old.lock")

    assert repository.targets("main").stdout == "::\n"


def test_an_unknown_base_is_an_error(repository: Repository) -> None:
    """One line says what is missing, and the run does not go on with too little."""
    result = repository.targets("no-such-branch")

    assert result.returncode == 2
    assert "'no-such-branch' shares no commit with HEAD" in result.stderr
