"""pants.remote.toml against a cache server: what one machine has built, the next does not."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build_support.remote_cache import RemoteCache, remote_cache

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PANTS_TOML = """\
[GLOBAL]
pants_version = "2.17.1"
backend_packages = ["pants.backend.shell"]
"""
# Long enough that nobody runs it a second time rather than wait for the cache's answer.
BUILD = """\
experimental_test_shell_command(name="checks", command="sleep 3", tools=["sleep"])
"""


@pytest.fixture
def cache() -> Iterator[RemoteCache]:
    with remote_cache() as running:
        yield running


def machine(tmp_path: Path, name: str, address: str) -> subprocess.CompletedProcess[str]:
    """Run the test of a small repository on a machine that has built nothing yet."""
    root = tmp_path / name
    root.mkdir()
    (root / "pants.toml").write_text(PANTS_TOML)
    (root / "BUILD").write_text(BUILD)
    for file in ("pants", "pants.remote.toml"):
        shutil.copy(ROOT / file, root)
    shutil.copytree(ROOT / "build-support/pants", root / "build-support/pants")
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PANTS_")}
    environ |= {
        "PANTS_CONFIG_FILES": "pants.remote.toml",
        "PANTS_REMOTE_STORE_ADDRESS": address,
        "PANTS_LOCAL_STORE_DIR": str(root / "store"),
    }
    return subprocess.run(  # noqa: S603
        (str(root / "pants"), "--no-pantsd", "--no-dynamic-ui", "--stats-log", "test", ":checks"),
        cwd=root,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_second_machine_finds_what_the_first_built(cache: RemoteCache, tmp_path: Path) -> None:
    """The test runs on the first machine only; the second takes its result from the cache."""
    address = f"grpc://127.0.0.1:{cache.port}"

    first = machine(tmp_path, "first", address)
    stored = cache.served["action stored"]
    second = machine(tmp_path, "second", address)

    assert first.returncode == 0, first.stderr
    assert stored > 0
    assert second.returncode == 0, second.stderr
    assert cache.served["action found"] > 0
    assert "(cached remotely)" in second.stderr


def test_a_cache_that_is_away_fails_no_build(tmp_path: Path) -> None:
    """Nobody listens on the discard port: the test runs here, and a warning says so."""
    alone = machine(tmp_path, "alone", "grpc://127.0.0.1:9")

    assert alone.returncode == 0, alone.stderr
    assert "remote cache" in alone.stderr
