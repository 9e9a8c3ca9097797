"""Run a measurement on an event loop that Ctrl-C and SIGTERM can end.  Input and output."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import uvloop

from bench.measuring import Conditions, Measured, Target
from bench.progress import Progress
from bench.prompts import PromptBook
from bench.schedule import Schedule
from servekit.client.client import CHAT
from servekit.timing.clock import SystemClock


def run_stoppable(
    work: Callable[[Conditions], Awaitable[Measured]],
    book: PromptBook,
    progress: Progress,
    target: Target,
) -> Measured:
    """Run *work*, which Ctrl-C and SIGTERM ask to stop; a second Ctrl-C ends it hard."""

    async def run() -> Measured:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def ask_to_stop(number: signal.Signals) -> None:
            stop.set()
            loop.remove_signal_handler(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ask_to_stop, number)
        return await work(Conditions(book.body, SystemClock(), progress, target, stop))

    return uvloop.run(run())


def book_for(schedule: Schedule, target: Target) -> PromptBook:
    """Return what writes the bodies of *schedule* for *target*."""
    return PromptBook(schedule.seed, chat=target.path == CHAT, stream=target.stream)
