"""The processes below another one.  Reads /proc."""

from pathlib import Path


def engine_core_of(pid: int) -> int:
    """Return the process of vLLM's engine core below *pid*."""
    (core,) = [below for below in descendants(pid) if "EngineCore" in _command(below)]
    return core


def descendants(pid: int) -> list[int]:
    """Return every process that *pid* has started, or one of those."""
    children = [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and _parent(path) == pid
    ]
    return children + [below for child in children for below in descendants(child)]


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
