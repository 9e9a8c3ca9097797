"""The workflows parse, and each of their `run:` lines does what it is there for.

They are run by a stand-in for the runner, in a git repository of the test's own with our `.ci/run`;
only Pants itself is a recorder there.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from servekit.cli.version import VERSION
from tests.build_support.runner import StepRun, evaluate, matrix_of, run_job, shims

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

# Says what it was called with, fails where the test wants it to, and leaves one report.
PANTS = """
echo "$*" >>"$PANTS_CALLS"
for word in $PANTS_FAILS; do [[ " $* " != *" $word "* ]] || exit 1; done
case " $* " in
  *" list "* | *" dependencies "*) echo src/python/one:lib ;;
  *" test "*)
    mkdir -p dist/test/reports
    echo '<testsuite><testcase classname="a" name="b"/></testsuite>' >dist/test/reports/a.xml ;;
esac
"""
# Drops the options, and does not touch the machine.
SUDO = """
while [[ $1 == --* ]]; do shift; done
[[ $1 != */.ci/run && $1 != .ci/run ]] || exec "$@"
echo "sudo $*"
"""


class Repository:
    """A clone with one commit on a branch, and a base that it left."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.calls = folder / "checkout", folder / "calls"
        self.calls.touch()
        for name in (".ci", "build-support/ci"):
            shutil.copytree(ROOT / name, self.checkout / name)
        recorder = self.checkout / "pants"
        recorder.write_text(f"#!/usr/bin/env bash\n{PANTS}")
        recorder.chmod(0o755)
        there = dict.fromkeys(("uv", "promtool", "chromium", "docker"), "exit 0")
        path = shims(folder / "bin", sudo=SUDO, **there)
        images = self.checkout / "build-support/images"
        images.mkdir()
        # leftovers looks at the whole machine, where other tests are at work.
        for script in (images / "dockerd", images / "build", images / "../ci/leftovers"):
            script.write_text("#!/bin/sh\n")
            script.chmod(0o755)
        self.environ = {
            "HOME": str(folder / "home"),
            "PATH": path,
            "PANTS_CALLS": str(self.calls),
            "PANTS_FAILS": "",
        }
        self._git("init", "--quiet", "--initial-branch=main")
        self.base = self._commit("src/python/one/a.py")
        self._git("checkout", "--quiet", "-b", "work")
        self._commit("src/python/one/b.py")

    def _git(self, *args: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
        return subprocess.run(  # noqa: S603
            ("git", *identity, *args),  # noqa: S607
            cwd=self.checkout,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def _commit(self, path: str) -> str:
        file = self.checkout / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", path)
        return self._git("rev-parse", "HEAD")

    def run(self, job: dict[str, Any], context: dict[str, Any], **environ: str) -> list[StepRun]:
        return list(run_job(job, context, self.checkout, {**self.environ, **environ}))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def load(path: Path) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    found: dict[Any, Any] = yaml.safe_load(path.read_text())
    return {"on" if key is True else key: value for key, value in found.items()}


def check_jobs() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    job = load(ROOT / ".github/workflows/ci.yml")["jobs"]["check"]
    return [(job, matrix) for matrix in matrix_of(job)]


STEPS = [matrix["steps"] for _, matrix in check_jobs()]


def context(matrix: dict[str, Any], base: str = "") -> dict[str, Any]:
    event = {"pull_request": {"base": {"sha": base}}} if base else {}
    return {"matrix": matrix, "github": {"event": event}, "runner": {"os": "Linux"}}


@pytest.mark.parametrize("steps", STEPS)
def test_a_job_of_main_looks_at_everything(repository: Repository, steps: str) -> None:
    """Every `run:` line ends well, and Pants is asked about all targets or a whole suite."""
    job, matrix = next(found for found in check_jobs() if found[1]["steps"] == steps)

    runs = repository.run(job, context(matrix))

    assert [run.code for run in runs] == [0] * len(runs), runs
    calls = repository.calls.read_text()
    assert "--changed-dependents" not in calls
    assert "::" in calls or "bench:runner" in calls


@pytest.mark.parametrize("steps", [steps for steps in STEPS if steps != "main_job"])
def test_a_job_of_a_pull_request_looks_at_what_changed(repository: Repository, steps: str) -> None:
    """From the merge base on, with all that depends on it."""
    job, matrix = next(found for found in check_jobs() if found[1]["steps"] == steps)

    runs = repository.run(job, context(matrix, repository.base))

    assert [run.code for run in runs] == [0] * len(runs), runs
    calls = repository.calls.read_text()
    assert "--changed-dependents=transitive list" in calls
    assert "--spec-files=dist/ci/selected-" in calls


@pytest.mark.parametrize("steps", STEPS)
def test_an_unknown_base_fails_the_job(repository: Repository, steps: str) -> None:
    """A selection that cannot be made selects nothing, and must not be green."""
    job, matrix = next(found for found in check_jobs() if found[1]["steps"] == steps)

    *_, last = repository.run(job, context(matrix, "0" * 40))

    assert last.code != 0
    assert "shares no commit with HEAD" in last.output
    assert repository.calls.read_text() == ""


@pytest.mark.parametrize(
    ("steps", "word"),
    [
        ("dependency_table,build_files,lint,types", "dependencies"),
        ("dependency_table,build_files,lint,types", "tailor"),
        ("dependency_table,build_files,lint,types", "lint"),
        ("dependency_table,build_files,lint,types", "check"),
        ("tests", "test"),
        ("main_job", "run"),
        *((suite, "test") for suite in ("empty_cache", "slow", "real_engine", "docker", "browser")),
    ],
)
def test_a_step_that_fails_fails_the_job(repository: Repository, steps: str, word: str) -> None:
    """And is named in the log's last lines."""
    job, matrix = next(found for found in check_jobs() if found[1]["steps"] == steps)

    *_, last = repository.run(job, context(matrix), PANTS_FAILS=word)

    assert last.code != 0
    assert "failed step: " in last.output


def test_every_step_of_ci_run_is_in_a_job() -> None:
    """What a developer's whole check does, CI does."""
    script = (ROOT / ".ci/run").read_text()
    suites = script.split('SUITES="')[1].split('"')[0]
    known = script.split('STEPS="')[1].split('"')[0].replace("$SUITES", suites).split()

    assert sorted(",".join(STEPS).split(",")) == sorted(known)


@pytest.mark.parametrize("result", ["success", "failure", "cancelled", "skipped"])
def test_the_required_job_passes_only_with_all_others(repository: Repository, result: str) -> None:
    """A skipped or cancelled job is no passed one."""
    job = load(ROOT / ".github/workflows/ci.yml")["jobs"]["all"]

    (run,) = repository.run(job, {"needs": {"check": {"result": result}}})

    assert (run.code == 0) == (result == "success")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_run_line_is_known_to_these_tests(path: Path) -> None:
    """A job that is added is added here."""
    jobs = {"ci.yml": {"check", "all"}, "explore.yml": {"explore"}, "release.yml": {"wheel"}}

    assert set(load(path)["jobs"]) == jobs[path.name]


def test_a_night_of_other_examples_asks_for_tests_with_properties(repository: Repository) -> None:
    """With a seed, and those that know the library."""
    job = load(ROOT / ".github/workflows/explore.yml")["jobs"]["explore"]
    script = repository.checkout / "build-support/ci/explore"
    script.write_text(script.read_text().replace("SECONDS < budget", "rounds < 2"))

    (run,) = repository.run(job, context({}))

    assert run.code == 0, run.output
    calls = repository.calls.read_text().splitlines()
    assert "dependents 3rdparty/python:testing#hypothesis" in calls[0]
    assert [call for call in calls[1:] if "SERVEKIT_EXPLORE=" in call] == calls[1:]
    assert len(set(calls[1:])) == 2, "each round has a seed of its own"


def test_a_night_that_finds_something_fails(repository: Repository) -> None:
    """And says how to see it again."""
    job = load(ROOT / ".github/workflows/explore.yml")["jobs"]["explore"]

    (run,) = repository.run(job, context({}), PANTS_FAILS="test")

    assert run.code == 1
    assert "again: SEED=" in run.output


@pytest.mark.parametrize(
    ("tag", "code"), [(f"v{VERSION}", 0), ("v9.9.9", 1)], ids=["the version's tag", "another tag"]
)
def test_only_a_tag_of_the_version_is_published(
    repository: Repository, tag: str, code: int
) -> None:
    """The wheel and every bill of materials are there before anything is published."""
    job = load(ROOT / ".github/workflows/release.yml")["jobs"]["wheel"]
    for name in ("build-support/release", "3rdparty/python"):
        shutil.copytree(ROOT / name, repository.checkout / name)
    page, version = "src/python/pyproject.toml", "src/python/servekit/cli/version.py"
    for name in (page, version):
        (repository.checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, repository.checkout / name)
    changelog = f"## {VERSION} (2026-11-28)\n\n### bench\n- Faster.\n"
    (repository.checkout / "CHANGELOG.md").write_text(changelog)
    python = shims(
        repository.calls.parent / "python", python3=f'[[ $1 == -m ]] || exec {sys.executable} "$@"'
    )
    path = f"{python.partition(':')[0]}:{repository.environ['PATH']}"

    runs = repository.run(job, {"github": {"ref_name": tag}}, PATH=path)

    assert [run.code for run in runs][-1] == code, runs[-1].output
    assert ("package src/python:wheel" in repository.calls.read_text()) == (code == 0)
    written = {path.name for path in (repository.checkout / "dist/sbom").glob("*.json")}
    assert ("loadbalancer.container.json" in written) == (code == 0)


def test_the_stand_in_refuses_what_it_does_not_know() -> None:
    """Or a wrong expression would be a right one."""
    with pytest.raises(ValueError, match="not known"):
        evaluate("hashFiles('a')", {})
