"""Our programs as processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def program(module: str, *arguments: str, **environ: str) -> Iterator[dict[str, Any]]:
    """Run a module of ours until the end of the block; give what it announces when it is ready."""
    # The child finds our modules where we found them.
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    with subprocess.Popen(  # noqa: S603
        (sys.executable, "-m", module, *arguments),
        env={**os.environ, "PYTHONPATH": path, **environ},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            announced: dict[str, Any] = json.loads(process.stdout.readline())
            yield announced
        finally:
            process.terminate()
