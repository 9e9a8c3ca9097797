"""The check of test_names.py, run over copies of our code in which a name is planted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.names import ROOT

SOURCES = ROOT / "src/python"
ARGUMENTS = "servekit/engine/arguments.py"
LAST_ARGUMENT = "    extra: tuple[str, ...] = ()\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the check reads."""
    copy = tmp_path_factory.mktemp("copy")
    only_code = shutil.ignore_patterns("__pycache__", "*.csv", "*.html", "*.json", "*.xz")
    shutil.copytree(SOURCES, copy / "src/python", ignore=only_code)
    shutil.copytree(ROOT / "tests/golden", copy / "tests/golden")
    (copy / "tests/__init__.py").touch()
    return copy


def check(checkout: Path, test: str = "") -> subprocess.CompletedProcess[str]:
    """Run the check, or one *test* of it, on the code of *checkout* and no other."""
    ours = {str(SOURCES), str(ROOT), ""}
    path = [str(checkout / "src/python"), str(checkout), *(p for p in sys.path if p not in ours)]
    tests = f"tests/golden/test_names.py{test and '::'}{test}"
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests],
        cwd=checkout,
        env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": os.pathsep.join(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_an_unchanged_copy_passes(checkout: Path) -> None:
    """So that what fails below fails for what was planted."""
    done = check(checkout)

    assert done.returncode == 0, done.stdout


PLANTED = {
    # What V0 engines had swapped out of the GPU; today's have no swap.
    "vllm:num_requests_swapped": "test_every_metric_in_the_code_is_exposed",
    "/v1/beam_search": "test_every_route_in_the_code_is_declared",
    # A variable of older releases, which today's engine ignores.
    "VLLM_USE_TRITON_FLASH_ATTN": "test_every_variable_in_the_code_is_vllms",
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_retired_name_is_caught(checkout: Path, name: str) -> None:
    """In any file of our code, by the test for its kind, which says the name."""
    planted = checkout / "src/python/loadbalancer/planted.py"
    planted.write_text(f'NAME = "{name}"\n')

    done = check(checkout, PLANTED[name])
    planted.unlink()

    assert done.returncode == 1, done.stdout
    assert f"FAILED tests/golden/test_names.py::{PLANTED[name]}" in done.stdout
    assert f"'{name}'" in done.stdout


def test_a_retired_flag_is_caught(checkout: Path) -> None:
    """A field of EngineArguments is a flag of the command line."""
    arguments = checkout / "src/python" / ARGUMENTS
    before = arguments.read_text()
    assert LAST_ARGUMENT in before
    arguments.write_text(
        before.replace(LAST_ARGUMENT, f"{LAST_ARGUMENT}    swap_space: int | None = None\n")
    )

    done = check(checkout, "test_every_flag_is_in_the_help")
    arguments.write_text(before)

    assert done.returncode == 1, done.stdout
    assert "FAILED tests/golden/test_names.py::test_every_flag_is_in_the_help" in done.stdout
    assert "'--swap-space'" in done.stdout
