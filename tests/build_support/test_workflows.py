"""The workflows parse, and each of their `run:` lines does what it is there for.

They are run by a stand-in for the runner, in a git repository of the test's own with our `.ci/run`;
only Pants itself is a recorder there.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    assert path.name == "ci.yml"
    assert set(load(path)["jobs"]) == {"check", "all"}


def test_the_stand_in_refuses_what_it_does_not_know() -> None:
    """Or a wrong expression would be a right one."""
    with pytest.raises(ValueError, match="not known"):
        evaluate("hashFiles('a')", {})
