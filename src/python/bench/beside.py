"""aiperf and this client against the same upstream, in one run.  Input and output.

The upstream is `bench.mock`: its timing is known, so each tool's error can be read off.
"""

import json
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.calibrate import ITL_MS, TOKENS, TTFT_MS, Calibration, calibrate
from bench.processes import Program, stopped_at_the_end
from bench.tables import number
from servekit.errors.tree import EngineError, SettingInvalid

_WORDS = 1_000


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What one tool said at one concurrency, less the truth."""

    tool: str
    concurrency: int
    ttft_error_mean_ms: float
    ttft_error_p99_ms: float
    requests_per_s: float
    cpu_ms: float | None


def table(aiperf: str, concurrencies: Sequence[int], seconds: float, folder: Path) -> str:
    """Return a Markdown table of both tools at each of *concurrencies*."""
    readings = [_ours(one) for one in calibrate(concurrencies, seconds, folder / "mock.log")]
    *delayed, at_once = readings
    for users in concurrencies:
        requests = round(seconds / (TTFT_MS + ITL_MS * (TOKENS - 1)) * 1e3 * users)
        delayed.append(_aiperf(aiperf, users, requests, TTFT_MS, ITL_MS, folder))
    highest = _aiperf(aiperf, max(concurrencies), round(400 * seconds), 0.0, 0.0, folder)
    lines = [
        f"TTFT {TTFT_MS:g} ms, ITL {ITL_MS:g} ms, {TOKENS} tokens; errors in ms.\n",
        "| tool | users | TTFT error mean | p99 | requests/s | CPU ms per request |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_line(one) for one in sorted(delayed, key=lambda one: one.concurrency)),
        *(_line(one, " no delay") for one in (at_once, highest)),
    ]
    return "\n".join(lines) + "\n"


def _line(one: Reading, note: str = "") -> str:
    errors = ("", "") if note else (one.ttft_error_mean_ms, one.ttft_error_p99_ms)
    shown = [e if isinstance(e, str) else number(e, sign=True) for e in errors]
    rate, cpu = number(one.requests_per_s), number(one.cpu_ms)
    return f"| {one.tool} | {one.concurrency}{note} | {shown[0]} | {shown[1]} | {rate} | {cpu} |"


def _ours(one: Calibration) -> Reading:
    return Reading(
        tool="servekit",
        concurrency=one.concurrency,
        ttft_error_mean_ms=one.ttft_error_mean_ms,
        ttft_error_p99_ms=one.ttft_error_p99_ms,
        requests_per_s=one.requests_per_s,
        cpu_ms=one.cpu_ms,
    )


def _aiperf(
    program: str, users: int, requests: int, ttft_ms: float, itl_ms: float, folder: Path
) -> Reading:
    """Run aiperf against a mock of its own, and read its export back."""
    timing = ["--ttft-ms", str(ttft_ms), "--itl-ms", str(itl_ms), "--tokens", str(TOKENS)]
    with stopped_at_the_end() as programs:
        programs.append(Program("mock", ["bench.mock", *timing], log=folder / "mock.log"))
        url = programs[-1].ready()["url"]
        place = folder / f"aiperf-{users}-{ttft_ms:g}"
        tokenizer = _write_tokenizer(folder)
        argv = [*_argv(program, url, users, requests), "--tokenizer", str(tokenizer)]
        cpu_s = _run_aiperf([*argv, "--artifact-dir", str(place)])
    found = read_aiperf(place / "profile_export_aiperf.json")
    return Reading(
        tool="aiperf",
        concurrency=users,
        ttft_error_mean_ms=found["time_to_first_token"]["avg"] - ttft_ms,
        ttft_error_p99_ms=found["time_to_first_token"]["p99"] - ttft_ms,
        requests_per_s=found["request_throughput"]["avg"],
        # Its start, about 6 s of processor time, is in it: it is spread over the requests.
        cpu_ms=cpu_s / max(1, requests) * 1e3,
    )


def _argv(program: str, url: str, users: int, requests: int) -> list[str]:
    return [
        program,
        *("profile", "--model", "mock", "--url", url, "--endpoint-type", "completions"),
        *("--streaming", "--concurrency", str(users), "--request-count", str(requests)),
        *("--synthetic-input-tokens-mean", "8", "--output-tokens-mean", str(TOKENS)),
        *("--use-server-token-count", "--warmup-request-count", str(users)),
        *("--ui-type", "none", "--random-seed", "1"),
    ]


def _write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of a thousand words: aiperf needs one to make prompts, and would ask a
    hub for it.  Answers are counted by the upstream."""
    place = folder / "tokenizer"
    place.mkdir(exist_ok=True)
    model = {"type": "WordLevel", "vocab": {f"w{n}": n for n in range(_WORDS)}, "unk_token": "w0"}
    tokenizer = {"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    nothing = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    (place / "tokenizer.json").write_text(json.dumps({**tokenizer, **nothing, "added_tokens": []}))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "eos_token": "w1"}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    return place


def _run_aiperf(argv: Sequence[str]) -> float:
    """Run it; return its processor time, that of its children with it.

    Raises:
        SettingInvalid: there is no such program.
        EngineError: it failed; the message has its last line.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(  # noqa: S603
            argv, capture_output=True, text=True, timeout=300
        )
    except OSError as error:
        raise SettingInvalid(
            f"{argv[0]} cannot be run: {error.strerror}; install aiperf in an environment of its "
            "own and give --aiperf"
        ) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [""]
        raise EngineError(f"aiperf ended with {done.returncode}: {said[-1][:300]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def read_aiperf(path: Path) -> dict[str, Any]:
    """Return aiperf's own export.

    Raises:
        EngineError: it is not there, or not JSON.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: no export of aiperf's: {error}") from error
    return found
