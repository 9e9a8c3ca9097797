"""Pants refuses what the table forbids: every test plants a violation in a copy of our files."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAMES = ("pants", "pants.toml", "BUILD_ROOT", "3rdparty", "build-support", "src/python")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository without its tests, and without the root targets that name all its files."""
    root = tmp_path / "repository"
    for name in NAMES:
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return root


def dependencies(root: Path, target: str) -> subprocess.CompletedProcess[str]:
    """What the gate of .ci/run does, for one target."""
    command = (str(root / "pants"), "--no-pantsd", "--no-dynamic-ui", "dependencies", target)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PANTS_")}
    return subprocess.run(  # noqa: S603
        command, cwd=root, env=environ, capture_output=True, text=True, check=False
    )


def test_the_repository_as_it_is_passes(copy: Path) -> None:
    """What the other tests see refused is what they planted."""
    result = dependencies(copy, "src/python/servekit/errors::")

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("library", "planted", "edge"),
    [
        ("errors", "from servekit.metrics import names", "servekit/metrics/names.py"),
        ("wire", "from servekit.fleet import fleet", "servekit/fleet/fleet.py"),
        ("metrics", "import aiohttp", "3rdparty/python#aiohttp"),
    ],
)
def test_a_forbidden_import_is_refused(copy: Path, library: str, planted: str, edge: str) -> None:
    """The message names the file that holds the rule and the edge that it forbids."""
    (copy / f"src/python/servekit/{library}/planted.py").write_text(f"{planted}\n")

    result = dependencies(copy, f"src/python/servekit/{library}::")

    assert result.returncode == 1
    assert "src/python/BUILD" in result.stderr, result.stderr
    assert edge in result.stderr
