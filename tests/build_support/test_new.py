"""`build-support/new deployable NAME` leaves a repository that is as whole as it was."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
NAME = "queue_drainer"
COPIED = ("build-support", "docs", "src", "tests", "3rdparty")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the deployable was made."""
    root = tmp_path_factory.mktemp("new") / "repository"
    left_out = shutil.ignore_patterns("__pycache__", "node_modules", ".hypothesis")
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=left_out)
    for name in ("BUILD", "BUILD_ROOT", "CHANGELOG.md", "LICENSE", "pytest.ini", "ruff.toml"):
        shutil.copy(ROOT / name, root / name)
    done = new(root, "deployable", NAME)
    assert done.returncode == 0, done.stderr
    return root


def new(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        (sys.executable, str(root / "build-support/new"), *args),
        capture_output=True,
        text=True,
        check=False,
    )


def python(root: Path, *args: str) -> str:
    packages = [path for path in sys.path if "site-packages" in path or path.endswith(".pex")]
    done = subprocess.run(  # noqa: S603
        (sys.executable, "-m", *args),
        cwd=root,
        env={
            **os.environ,
            "SERVEKIT_SUITES": "",
            "PYTHONPATH": os.pathsep.join(["src/python", ".", *packages]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_its_own_tests_pass(root: Path) -> None:
    """It starts, says that it is ready, answers, and stops."""
    assert "1 passed" in python(root, "pytest", "-p", "no:cacheprovider", f"tests/{NAME}")


def test_the_repository_s_own_tests_pass(root: Path) -> None:
    """Every table has its row, every page that is made is new: layers, names, wheel, map."""
    python(root, "pytest", "-p", "no:cacheprovider", "tests/architecture")


def test_it_has_a_case_among_the_images(root: Path) -> None:
    """As every image must."""
    assert f'Server("{NAME}", 8080' in (root / "tests/images/cases.py").read_text()
    assert f'"{NAME}"' in (root / "tests/images/BUILD").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "usage"),
        (("library", "x"), "usage"),
        (("deployable", "Queue-Drainer"), "is no Python name"),
        (("deployable", "class"), "is no Python name"),
        (("deployable", "bench"), "is taken"),
        (("deployable", "http"), "is taken"),
    ],
)
def test_a_name_that_cannot_be_is_refused(root: Path, args: tuple[str, ...], said: str) -> None:
    """Before anything is written."""
    done = new(root, *args)

    assert done.returncode == 2
    assert said in done.stderr
