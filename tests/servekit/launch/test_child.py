"""An engine as a child process."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servekit.errors.tree import EngineExited, SettingInvalid
from servekit.launch.child import Child, describe_exit, start_child

GRACE_S = 10.0

# Says when it is ready for signals, and forks a worker that holds the pipe.
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = os.fork()
if worker:
    print("worker", worker, flush=True)
time.sleep(60)
"""


async def _start(code: str, lines: list[str] | None = None) -> Child:
    told = lines if lines is not None else []
    return await start_child((sys.executable, "-c", code), dict(os.environ), told.append)


async def _first_line(lines: list[str]) -> str:
    for _ in range(1000):
        if lines:
            break
        await asyncio.sleep(0.01)
    return lines[0]


def _exists(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def _is_gone(pid: int) -> bool:
    for _ in range(500):
        if not _exists(pid):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_every_line_is_passed_on_as_it_comes() -> None:
    """Both outputs, in order, and kept as the tail."""
    lines: list[str] = []
    code = "import sys; print('a', flush=True); print('b', file=sys.stderr)"
    child = await _start(code, lines)

    assert await child.wait() == 0
    assert lines == ["a", "b"]
    assert child.tail == ("a", "b")


async def test_exit_is_noticed_while_waiting_for_something_else() -> None:
    """An engine that dies at once does not cost the whole start-up time."""
    child = await _start("import sys; sys.exit('ValueError: no such model')")
    cancelled = asyncio.Event()

    async def wait_forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(EngineExited, match="exited with 1: ValueError: no such model"):
        await child.while_running(wait_forever())

    assert cancelled.is_set()


async def test_work_that_ends_first_gives_its_result() -> None:
    """The child goes on."""
    child = await _start("import time; time.sleep(60)")

    async def work() -> str:
        return "done"

    assert await child.while_running(work()) == "done"
    assert child.running
    await child.stop(GRACE_S)


async def test_error_of_the_work_is_the_callers() -> None:
    """It is not taken for the child's."""
    child = await _start("import time; time.sleep(60)")

    async def work() -> str:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await child.while_running(work())
    await child.stop(GRACE_S)


async def test_stop_lets_the_child_end_in_its_own_way() -> None:
    """SIGTERM first: an engine has requests to finish."""
    lines: list[str] = []
    child = await _start(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)",
        lines,
    )
    await _first_line(lines)

    assert await child.stop(GRACE_S) == 7


async def test_stop_ends_a_stubborn_child_and_its_workers() -> None:
    """After the grace nothing of the process group is left."""
    lines: list[str] = []
    child = await _start(STUBBORN, lines)
    worker = int((await _first_line(lines)).split()[1])

    assert await child.stop(0.1) == -signal.SIGKILL

    assert await _is_gone(worker)


async def test_stop_of_a_dead_child_is_nothing_special() -> None:
    """Whoever stops need not ask first."""
    child = await _start("")
    await child.wait()

    assert await child.stop(GRACE_S) == 0


async def test_environment_is_exactly_what_was_given() -> None:
    """Nothing of ours leaks into the engine."""
    lines: list[str] = []
    code = "import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))"
    child = await start_child((sys.executable, "-c", code), {"ONLY": "this"}, lines.append)
    await child.wait()

    assert lines == ["['ONLY']"]


async def test_missing_program_is_a_wrong_setting() -> None:
    """One line names it."""
    with pytest.raises(SettingInvalid, match="'no-such-engine' cannot be started"):
        await start_child(("no-such-engine",), {}, print)


@pytest.mark.parametrize(
    ("code", "tail", "said"),
    [
        (1, ["RuntimeError: boom", "bye"], "exited with 1: RuntimeError: boom"),
        (1, ["OSError: full", "RuntimeError: failed. See root cause above."], "OSError: full"),
        (
            1,
            ["(EngineCore pid=7) RuntimeError: CUDA error: assert", "EngineDeadError: see above"],
            "exited with 1: .EngineCore pid=7. RuntimeError: CUDA error: assert",
        ),
        (3, ["only this"], "exited with 3: only this"),
        (1, ["EngineCore was killed by signal 9", "EngineDeadError: boom"], ": EngineCore was ki"),
        (
            1,
            ["EngineCore has ended", "EngineDeadError: EngineCore encountered an issue"],
            "EngineCore was killed by signal 9, as it ended without a message",
        ),
        (1, ["(EngineCore pid=7) OSError: boom", "EngineCore has ended"], "OSError: boom"),
        (-9, [], r"ended by SIGKILL \(out of memory\?\): it wrote nothing"),
    ],
)
def test_exit_is_described_in_one_line(code: int, tail: list[str], said: str) -> None:
    """Code or signal, and the last line that names an error."""
    with pytest.raises(EngineExited, match=said):
        raise EngineExited(describe_exit(code, tail))


# gVisor has no pidfd_open (434 on every machine); here a filter of the kernel refuses it.
WITHOUT_PIDFD = """
import asyncio, ctypes, os, struct, sys
load, compare = (0x20, 0, 0, 0), (0x15, 0, 1, 434)
refuse, allow = (6, 0, 0, 0x00050000 | 38), (6, 0, 0, 0x7FFF0000)
instructions = [load, compare, refuse, allow]
code = b"".join(struct.pack("HBBI", *one) for one in instructions)
held = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(held))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
from servekit.launch.child import start_child
async def main():
    child = await start_child((sys.executable, "-c", sys.argv[1]), dict(os.environ), print)
    if sys.argv[2] == "wait":
        print("ended with", await asyncio.wait_for(child.wait(), 20))
    else:
        print("stopped with", await asyncio.wait_for(child.stop(10), 20))
try:
    os.pidfd_open(os.getpid())
except OSError as error:
    print(error.errno)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("code", "how", "said"),
    [
        ("raise SystemExit(3)", "wait", "ended with 3"),
        ("import time; time.sleep(60)", "stop", "stopped with -15"),
    ],
)
def test_exits_are_noticed_where_the_kernel_has_no_pidfd(code: str, how: str, said: str) -> None:
    """As below Cloud Run's first generation."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", WITHOUT_PIDFD, code, how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout.splitlines()[0] == "38", done.stderr
    assert said in done.stdout, done.stderr
