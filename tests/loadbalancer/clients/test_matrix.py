"""Every client, with an engine that is well, dies before its first byte, or in the middle.

What is promised: who is given less than the whole answer is told so, in whatever way the client
has.  No client takes a part for the whole.
"""

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.loadbalancer.clients import programs
from tests.loadbalancer.clients.environment import python_or_skip
from tests.loadbalancer.clients.states import every_state, fails
from tests.loadbalancer.dialect_engine import TEXT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CALLS: dict[str, tuple[tuple[str, bool], ...]] = {
    "openai": (
        *(
            (api, stream)
            for api in ("chat", "completions", "responses")
            for stream in (False, True)
        ),
        ("embeddings", False),
    ),
    "anthropic": (("messages", False), ("messages", True), ("raw events", True)),
    "langchain": tuple((api, s) for api in ("chat", "responses") for s in (False, True)),
    "litellm": tuple((api, s) for api in ("chat", "messages") for s in (False, True)),
}


async def called(
    python: Path, library: str, calls: list[tuple[str, str, bool]]
) -> list[dict[str, str]]:
    """Return what a user of *library* was given for each of *calls*."""
    process = await asyncio.create_subprocess_exec(
        str(python),
        "-I",
        programs.__file__,
        library,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    lines = [json.dumps({"url": u, "api": api, "stream": stream}) for u, api, stream in calls]
    out, err = await process.communicate("\n".join(lines).encode())
    assert process.returncode == 0, err.decode()[-2000:]
    return [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")]


@pytest.mark.parametrize("library", CALLS)
async def test_no_client_takes_a_part_for_the_whole(library: str) -> None:
    """It is given everything, or it raises."""
    python = python_or_skip(os.environ)
    async with every_state() as urls:
        cases = [(state, api, stream) for state in urls for api, stream in CALLS[library]]
        calls = [(urls[state], api, stream) for state, api, stream in cases]
        answers = await called(python, library, calls)

    assert len(answers) == len(cases)
    for (state, api, stream), answer in zip(cases, answers, strict=True):
        what = (library, api, "stream" if stream else "whole", state, answer)
        if fails(state):
            assert "raised" in answer, what
        else:
            assert answer == {"text": "1" if api == "embeddings" else TEXT}, what


async def curl(*options: str) -> tuple[int, str]:
    """Return curl's exit status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        "curl",
        "--silent",
        "--no-buffer",
        "--fail",
        "--max-time",
        "20",
        *options,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2-prior-knowledge"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_curl_ends_with_an_error_where_the_answer_is_not_whole(
    version: str, path: str
) -> None:
    """Whichever version of HTTP it speaks: scripts look at nothing else."""
    async with every_state() as urls:
        for state, url in urls.items():
            for stream in (True, False):
                body = json.dumps({"model": "m", "stream": stream, "input": "", "messages": []})
                status, out = await curl(version, "--data", body, url + path)
                what = (version, path, state, stream, status, out[-200:])
                assert (status != 0) == fails(state), what
                if state == "well":
                    assert "three" in out, what
