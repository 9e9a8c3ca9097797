"""The same sources are the same bytes, whatever the folder, the home and the rights of files."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("uv") is None, reason="no uv on the PATH; pip install uv"),
]

ROOT = Path(__file__).parents[2]
# As src/python/BUILD gives it to Pants.
EPOCH = "315532800"


def built(folder: Path, mode: int) -> dict[str, str]:
    """Name -> SHA-256 of what is built from a copy in *folder*, whose files have *mode*."""
    sources = folder / "src"
    left_out = shutil.ignore_patterns("__pycache__", "BUILD", "*.egg-info")
    shutil.copytree(ROOT / "src/python", sources, ignore=left_out)
    for path in sources.rglob("*.py"):
        path.chmod(mode)
    subprocess.run(  # noqa: S603
        ("uv", "build", "--quiet", "--out-dir", str(folder / "out"), str(sources)),  # noqa: S607
        check=True,
        env={
            **os.environ,
            "HOME": str(folder),
            "SOURCE_DATE_EPOCH": EPOCH,
            "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(folder.parent / "uv")),
        },
    )
    files = [path for path in (folder / "out").iterdir() if path.name.startswith("servekit-")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_wheel_and_sdist_are_equal_to_the_byte(tmp_path: Path) -> None:
    """The wheel is built from the sdist, so that this holds for what users build too."""
    first = built(tmp_path / "one", 0o644)
    second = built(tmp_path / "another folder/two", 0o600)

    assert sorted(first) == ["servekit-0.1.0-py3-none-any.whl", "servekit-0.1.0.tar.gz"]
    assert first == second
