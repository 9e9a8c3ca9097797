"""A run that is stopped keeps what it has, and leaves nothing running."""

import json
import re
import signal
from pathlib import Path

import pytest

from bench.target.processes import Program, stopped_at_the_end
from tests.bench.program import processes_in, runner

SHAPE = ("--parts", "4", "--part-s", "5", "--steady-s", "0", "--warmup-s", "1", "--rate", "8")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_keeps_what_it_has(tmp_path: Path, number: int) -> None:
    """It says that it is partial, ends with 130, and leaves no process behind."""
    with runner(tmp_path, *SHAPE) as it:
        assert it.stdout is not None
        while "part 1 of 4: managed" not in it.stdout.readline():
            assert it.poll() is None
        it.send_signal(number)
        output, errors = it.communicate(timeout=60)

    assert it.returncode == 130, errors
    assert "partial" in output
    (folder,) = (tmp_path / "results" / "managed").iterdir()
    assert json.loads((folder / "comparison.json").read_text())["partial"] is True
    assert processes_in(tmp_path) == []


def test_a_closed_loop_that_is_stopped_keeps_what_it_has(tmp_path: Path) -> None:
    """Partial is said, and what ended is there."""
    with stopped_at_the_end() as programs:
        timing = ["--tokens", "5", "--itl-ms", "1", "--ttft-ms", "20"]
        programs.append(
            Program("mock", ["bench.target.mock_server", *timing], log=tmp_path / "mock.log")
        )
        url = programs[-1].ready()["url"]
        argv = ["run", "-m", "mock", "--url", url, "--request-count", "20000"]
        with runner(tmp_path, *argv, "--concurrency", "2") as process:
            assert process.stdout is not None
            while not re.search(r" [1-9]\d*/20000 requests", process.stdout.readline()):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)

    assert process.returncode == 130, errors
    assert "partial" in output
    (folder,) = (tmp_path / "results" / "url").iterdir()
    assert json.loads((folder / "manifest.json").read_text())["partial"] is True
    assert (folder / "profile_export.jsonl").read_text()
    assert json.loads((folder / "profile_export_aiperf.json").read_text())["was_cancelled"] is True
