"""Where the client libraries are: an environment of their own, made once for all checkouts."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
LIMIT_S = 900.0


def python_or_skip(environ: Mapping[str, str]) -> Path:
    """Return the Python that has them; where they cannot be had, skip and say why."""
    uv = shutil.which("uv", path=environ.get("PATH", os.defpath))
    if uv is None:
        pytest.skip("no client was started: uv is not on the PATH; `pip install uv` brings it")
    cache = Path(environ.get("XDG_CACHE_HOME") or Path(environ["HOME"]) / ".cache") / "servekit"
    mark = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    home = cache / f"clients-{mark}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "clients.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            _install(uv, home, environ)
    return home / "bin/python"


def _install(uv: str, home: Path, environ: Mapping[str, str]) -> None:
    partial = home.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    python = str(partial / "bin/python")
    for command in (
        ("venv", "--quiet", "--relocatable", "--python", "3.11", str(partial)),
        ("pip", "install", "--quiet", "--python", python, "--requirement", str(REQUIREMENTS)),
    ):
        done = subprocess.run(  # noqa: S603
            (uv, *command),
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"no client was started: `uv {command[0]}` failed: {done.stderr[-500:]}")
    partial.rename(home)
