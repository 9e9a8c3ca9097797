"""Start ./pants of a copy of its files, in an environment of the test's own."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]

# What the launcher itself calls.  None of it is a Python.
TOOLS = "bash cat cut dirname env flock grep head mkdir mv rm sed sha256sum tr wc"


@dataclass(frozen=True)
class Launcher:
    """./pants, a home and a folder of programs that no other test shares."""

    root: Path
    home: Path
    programs: Path

    @classmethod
    def make(cls, folder: Path) -> "Launcher":
        root, home, programs = folder / "root", folder / "home", folder / "bin"
        for made in (root / "build-support", home, programs):
            made.mkdir(parents=True)
        for name in ("pants", "pants.toml"):
            shutil.copy(CHECKOUT / name, root / name)
        shutil.copytree(CHECKOUT / "build-support/pants", root / "build-support/pants")
        for tool in TOOLS.split():
            (programs / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
        return cls(root, home, programs)

    @property
    def installed(self) -> list[str]:
        """Names in the cache folder, the lock aside."""
        cache = self.home / "cache/servekit/pants"
        return sorted(path.name for path in cache.glob("*") if path.name != "lock")

    def add_program(self, name: str, script: str) -> None:
        program = self.programs / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run with no program but ours on the PATH, and nobody's home."""
        environ = {"HOME": str(self.home), "PATH": str(self.programs)}
        environ["XDG_CACHE_HOME"] = str(self.home / "cache")
        return subprocess.run(  # noqa: S603
            (str(self.root / "pants"), *args),
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start with everything that this machine has, but an empty cache, in a process group of
        its own."""
        environ = {**os.environ, "XDG_CACHE_HOME": str(self.home / "cache")}
        return subprocess.Popen(  # noqa: S603
            (str(self.root / "pants"), *args),
            cwd=self.root,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
