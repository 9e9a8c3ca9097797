"""What becomes of an engine's processes when one of them, or whoever started them, is killed."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from servekit.errors.tree import EngineExited
from servekit.launch.child import Child, start_child
from servekit.launch.keeper import descendants, process_name
from tests.support.waiting import until

# An API server, a core of its process group, and a worker that has left the group; each prints its
# process and stays.
FAMILY = """
import os, subprocess, sys, time
stay = r'''
import os, sys, time
os.write(1, b"%s %d\\n" % (sys.argv[1].encode(), os.getpid()))
time.sleep(60)
'''
core = subprocess.Popen([sys.executable, "-c", stay, "core"])
worker = subprocess.Popen([sys.executable, "-c", stay, "worker"], start_new_session=True)
os.write(1, b"server %d\\n" % os.getpid())
# Like vLLM's API server, it does not ask for the exit code in the very moment of the end.
while core.poll() is None:
    time.sleep(0.05)
sys.exit("RuntimeError: the core is gone")
"""

# A program of ours that starts the family and waits.
PARENT = f"""
import asyncio, os, sys
from servekit.launch.child import start_child

async def main():
    command = (sys.executable, "-c", {FAMILY!r})
    await start_child(command, dict(os.environ), lambda line: os.write(1, line.encode() + b"\\n"))
    await asyncio.sleep(60)

asyncio.run(main())
"""


def _is_gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def _members(lines: list[str]) -> dict[str, int]:
    return {name: int(pid) for name, pid in (line.split() for line in lines)}


async def _start_family() -> tuple[Child, list[str]]:
    lines: list[str] = []
    child = await start_child((sys.executable, "-c", FAMILY), dict(os.environ), lines.append)
    await until(lambda: len(lines) >= 3)
    return child, lines


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_parent_that_is_killed_takes_the_whole_family_along(number: int) -> None:
    """The GPU is free again, although nobody could stop the engine."""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    family = _members([(await parent.stdout.readline()).decode() for _ in range(3)])

    parent.send_signal(number)

    await until(lambda: all(_is_gone(pid) for pid in family.values()))
    await parent.wait()


async def test_keeper_that_is_killed_leaves_no_engine() -> None:
    """Nothing protects it; what it kept ends with it."""
    child, lines = await _start_family()
    family = _members(lines[:3])

    os.kill(child.pid, signal.SIGKILL)
    await child.wait()

    await until(lambda: _is_gone(family["server"]) and _is_gone(family["core"]))
    os.kill(family["worker"], signal.SIGKILL)
    # Only now does nobody hold the pipe.
    await child.wait()


async def test_process_that_is_killed_is_named() -> None:
    """Its own parent reports that it is gone, and not why."""
    child, lines = await _start_family()
    family = _members(lines[:3])
    name = process_name(family["core"])
    # The keeper looks for new processes every two seconds.
    await asyncio.sleep(2.5)

    os.kill(family["core"], signal.SIGKILL)
    with pytest.raises(EngineExited, match=f"exited with 1: {name} was killed by signal 9"):
        await child.while_running(asyncio.Event().wait())

    assert all(_is_gone(pid) for pid in family.values())


async def test_worker_that_left_the_group_is_stopped_too() -> None:
    """The keeper knows it as its descendant."""
    child, lines = await _start_family()
    family = _members(lines[:3])
    assert set(family.values()) <= set(descendants(child.pid))

    await child.stop(5.0)

    assert all(_is_gone(pid) for pid in family.values())


async def test_signals_are_as_a_shell_would_give_them() -> None:
    """Python ignores SIGPIPE; a program that is started must not."""
    lines: list[str] = []
    code = "grep -E 'Sig(Ign|Blk)' /proc/self/status"
    child = await start_child(("sh", "-c", code), dict(os.environ), lines.append)
    await child.wait()

    masks = {name: int(mask, 16) for name, mask in (line.split(":\t") for line in lines)}
    assert masks["SigBlk"] == 0
    # What the tests themselves ignore, as under nohup, stays ignored.
    assert not masks["SigIgn"] >> signal.SIGPIPE - 1 & 1
