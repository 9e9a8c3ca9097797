"""Programs that we start end when we do."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bench.target.processes import Program, stopped_at_the_end
from servekit.errors.tree import EngineExited, EngineNotReady


def is_running(pid: int) -> bool:
    """Whether *pid* is a process that has not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int, timeout_s: float = 10.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while is_running(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return not is_running(pid)


def test_a_program_says_when_it_is_ready_and_stops_with_the_block(tmp_path: Path) -> None:
    """Its announcement is read; after the block it is gone."""
    with stopped_at_the_end() as programs:
        program = Program("mock", ["bench.target.mock_server"], log=tmp_path / "log")
        programs.append(program)
        said = program.ready()
        assert said["url"].startswith("http://127.0.0.1:")
        assert is_running(program.pid)

    assert not is_running(program.pid)


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    """The last line that it logged is in the message."""
    with stopped_at_the_end() as programs:
        program = Program(
            "mock", ["bench.target.mock_server", "--tokens", "0"], log=tmp_path / "log"
        )
        programs.append(program)
        with pytest.raises(EngineExited, match=r"mock exited with status 2 .*--tokens"):
            program.ready()


def test_a_program_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    """A server that says nothing does not hang the run."""
    with stopped_at_the_end() as programs:
        program = Program("web", ["http.server", "0", "--bind", "127.0.0.1"], log=tmp_path / "log")
        programs.append(program)
        with pytest.raises(EngineNotReady, match="not ready within"):
            program.ready(timeout_s=0.3)


def test_a_program_dies_with_us_even_if_we_are_killed(tmp_path: Path) -> None:
    """SIGKILL gives nobody time to clean up; the kernel does it."""
    script = textwrap.dedent(f"""
        import pathlib, time
        from bench.target.processes import Program
        log = pathlib.Path({str(tmp_path / "log")!r})
        program = Program("mock", ["bench.target.mock_server"], log=log)
        program.ready()
        print(program.pid, flush=True)
        time.sleep(60)
    """)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()

    assert wait_until_gone(child)
