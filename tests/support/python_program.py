"""Programs that stand for others', written in Python."""

import sys
from pathlib import Path


def python_program(path: Path, source: str) -> str:
    """Make *path* a program that runs *source* on this Python; return it."""
    path.write_text(f"#!{sys.executable}\n{source}\n")
    path.chmod(0o755)
    return str(path)
