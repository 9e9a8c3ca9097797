"""Start our own programs as processes, as users do.  Runs processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def command(module: str, *args: str) -> list[str]:
    return [sys.executable, "-m", module, *args]


def environ() -> dict[str, str]:
    """Ours, with the path on which this process finds its modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def run(module: str, *args: str) -> str:
    """Run a program to its end, which must be a good one, and return what it wrote to stdout."""
    done = subprocess.run(  # noqa: S603
        command(module, *args),
        env=environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def serving(module: str, *args: str) -> Iterator[str]:
    """Run a server on a free port; the URL is what it announces.  SIGTERM ends it."""
    process = subprocess.Popen(  # noqa: S603
        command(module, *args), env=environ(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"{module} ended with code {process.wait(5)} before it was ready"
        yield json.loads(line)["url"]
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout:
            process.stdout.close()
