"""Tests for ./pants that install Pants for real, into an empty cache."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.build_support.launcher import Launcher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

INSTALLING = "pants: installing"


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    made = Launcher.make(tmp_path)
    # `--version` needs no more of a repository than this.
    (made.root / "pants.toml").write_text('[GLOBAL]\npants_version = "2.17.1"\n')
    return made


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=240)
    return process.returncode, stdout, stderr


def test_two_first_runs_at_once_install_one(launcher: Launcher) -> None:
    """The second waits for the first, and both end well."""
    results = [finish(run) for run in [launcher.start("--version"), launcher.start("--version")]]

    assert [(code, out.strip()) for code, out, _ in results] == [(0, "2.17.1")] * 2
    assert sum(INSTALLING in err for _, _, err in results) == 1
    assert len(launcher.installed) == 1


def test_an_interrupted_first_run_leaves_nothing(launcher: Launcher) -> None:
    """After Ctrl-C there is no half of an installation, and the next run makes a whole one."""
    first = launcher.start("--version")
    assert first.stderr is not None
    assert INSTALLING in first.stderr.readline()
    os.killpg(first.pid, signal.SIGINT)
    interrupted = finish(first)[0]
    left = launcher.installed

    second = finish(launcher.start("--version"))

    assert interrupted != 0
    assert left == []
    assert second[:2] == (0, "2.17.1\n")


def test_a_killed_first_run_is_cleaned_up_by_the_next(launcher: Launcher) -> None:
    """kill -9 leaves a partial folder; the next run removes it and needs no help."""
    first = launcher.start("--version")
    assert first.stderr is not None
    assert INSTALLING in first.stderr.readline()
    os.killpg(first.pid, signal.SIGKILL)
    finish(first)
    assert ".partial." in launcher.installed[0]

    second = finish(launcher.start("--version"))

    assert second[:2] == (0, "2.17.1\n")
    assert [".partial." in name for name in launcher.installed] == [False]


def test_a_warm_run_needs_no_network(launcher: Launcher) -> None:
    """Once installed, neither a Python 3.9 nor a package index is looked for."""
    assert finish(launcher.start("--version"))[0] == 0
    # Where `unshare` may make an empty network, nothing outside can be reached from within.
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run((unshare, "-n", "true"), check=False).returncode:  # noqa: S603
        pytest.skip("no empty network can be made here: `unshare -n` is refused")

    offline = subprocess.run(  # noqa: S603
        (unshare, "-n", str(launcher.root / "pants"), "--no-pantsd", "--version"),
        cwd=launcher.root,
        env={**os.environ, "XDG_CACHE_HOME": str(launcher.home / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert offline.stdout == "2.17.1\n"


@pytest.mark.parametrize("home", ["my home", None], ids=["a home with a blank", "no home"])
def test_a_pex_is_built_whatever_the_home_is(launcher: Launcher, home: str | None) -> None:
    """Pants puts the paths of its caches into URLs, where a blank ends them."""
    (launcher.root / "pants.toml").write_text(
        '[GLOBAL]\npants_version = "2.17.1"\nbackend_packages = ["pants.backend.python"]\n'
        '[python]\ninterpreter_constraints = [">=3.11,<3.14"]\n'
        '[python-bootstrap]\nsearch_path = ["<PATH>", "<PYENV>"]\n'
    )
    (launcher.root / "BUILD").write_text('pex_binary(name="hello", entry_point="json.tool")\n')
    environ = {n: v for n, v in os.environ.items() if n not in ("HOME", "XDG_CACHE_HOME")}
    if home is not None:
        environ["HOME"] = str(launcher.home / home)
        environ.setdefault("PYENV_ROOT", os.path.expanduser("~/.pyenv"))  # noqa: PTH111

    built = subprocess.run(  # noqa: S603
        (str(launcher.root / "pants"), "--no-pantsd", "package", "//:hello"),
        cwd=launcher.root,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert built.returncode == 0, built.stderr
    assert (launcher.root / "dist/hello.pex").exists()
