"""Why a process is gone, as the container's cgroup knows it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from servekit.launch.memory_limit import MemoryLimit, describe_memory_kill, read_memory_limit

GIB = 1024**3


def _write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


V2 = {"memory.events": "low 0\noom 3\noom_kill 2\n", "memory.max": f"{24 * GIB}\n"}
V1 = {
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "memory.limit_in_bytes": f"{24 * GIB}\n",
}


@pytest.mark.parametrize(
    ("own", "folder", "files"),
    [
        ("0::/pod/box\n", "pod/box", V2),
        # A container that has a cgroup namespace, or sees the host's names and its own files.
        ("0::/\n", "", V2),
        ("0::/kubepods/pod1/box\n", "", V2),
        ("9:name=systemd:/\n4:memory:/docker/ab12\n0::/\n", "memory/docker/ab12", V1),
        ("4:cpu,memory:/docker/ab12\n", "memory", V1),
    ],
)
def test_both_versions_are_read_wherever_they_lie(
    tmp_path: Path, own: str, folder: str, files: dict[str, str]
) -> None:
    """How many processes were killed, and the limit."""
    (tmp_path / "own").write_text(own)
    _write(tmp_path / "cgroup" / folder, files)

    assert read_memory_limit(tmp_path / "own", tmp_path / "cgroup") == MemoryLimit(2, 24 * GIB)


@pytest.mark.parametrize("limit", ["max\n", "9223372036854771712\n"])
def test_no_limit_is_no_number(tmp_path: Path, limit: str) -> None:
    """Both versions have a way to say so."""
    (tmp_path / "own").write_text("0::/\n")
    _write(tmp_path / "cgroup", {**V2, "memory.max": limit})

    assert read_memory_limit(tmp_path / "own", tmp_path / "cgroup") == MemoryLimit(2, None)


def test_machine_without_cgroups_says_nothing(tmp_path: Path) -> None:
    """Unknown is not zero."""
    assert read_memory_limit(tmp_path / "own", tmp_path) is None


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (MemoryLimit(0, 24 * GIB), MemoryLimit(1, 24 * GIB), "out of memory: cgroup limit 24 GiB"),
        (MemoryLimit(0, GIB // 2), MemoryLimit(3, GIB // 2), "out of memory: cgroup limit 0.5 GiB"),
        (MemoryLimit(1, 24 * GIB), MemoryLimit(1, 24 * GIB), None),
        (None, MemoryLimit(1, 24 * GIB), None),
        (MemoryLimit(1, 24 * GIB), None, None),
    ],
)
def test_only_a_new_kill_is_a_reason(
    before: MemoryLimit | None, after: MemoryLimit | None, said: str | None
) -> None:
    """One from before our start is another's."""
    assert describe_memory_kill(before, after) == said


HOG = """
import sys
from servekit.launch.memory_limit import describe_memory_kill, read_memory_limit
import subprocess
before = read_memory_limit()
subprocess.run([sys.executable, "-c", "x = bytearray(400_000_000)"])
print(describe_memory_kill(before, read_memory_limit()))
"""


def test_real_kernel_says_the_same() -> None:
    """A child that takes more than the group has, in a group of our own."""
    parent = Path("/sys/fs/cgroup/memory")
    group = parent / f"servekit-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(GIB // 8))
    except OSError:
        pytest.skip("no memory cgroup (version 1) can be made here")
    try:
        run = subprocess.run(  # noqa: S603
            (sys.executable, "-c", HOG),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        group.rmdir()

    assert run.stdout.strip() == "out of memory: cgroup limit 0.125 GiB"
