"""What of ours still runs after the tests is found."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.python_program import python_program

SCRIPT = Path(__file__).parents[2] / "build-support/ci/leftovers"

STAY = "print('here', flush=True)\nimport time\ntime.sleep(60)"


@contextmanager
def _running(*argv: str, folder: Path) -> Iterator[int]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=folder) as process:  # noqa: S603
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def _leftovers() -> str:
    run = subprocess.run(  # noqa: S603
        (sys.executable, SCRIPT, "0"), capture_output=True, text=True, check=False
    )
    assert (run.returncode == 1) == ("left running: " in run.stdout), run.stdout + run.stderr
    return run.stdout


def test_program_of_a_sandbox_is_listed_until_it_has_ended(tmp_path: Path) -> None:
    """With its process and its command; a fake engine ran for hours and nobody knew."""
    folder = tmp_path / "pants-sandbox-Ab12/tests"
    folder.mkdir(parents=True)
    fake = python_program(folder / "fake_vllm.py", STAY)

    with _running(fake, folder=tmp_path) as pid:
        assert f"left running: {pid} " in _leftovers()

    assert f"left running: {pid} " not in _leftovers()


def test_what_renamed_itself_is_known_by_its_folder(tmp_path: Path) -> None:
    """vLLM's core shows as `VLLM::EngineCore`, and nothing of its command line is left."""
    folder = tmp_path / "pants-sandbox-Ab12"
    folder.mkdir()

    with _running("sh", "-c", "echo here; exec sleep 60", folder=folder) as pid:
        assert f"left running: {pid} " in _leftovers()


def test_programs_of_others_are_not_listed(tmp_path: Path) -> None:
    """A shell in another folder, and whoever started us."""
    other = python_program(tmp_path / "other.py", STAY)

    with _running(other, folder=tmp_path) as pid:
        assert f"left running: {pid} " not in _leftovers()
