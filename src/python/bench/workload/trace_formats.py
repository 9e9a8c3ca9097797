"""A workload's file -> rows, whichever format it has.  Pure.

Tables: Azure 2023, 2024 and 2025 (https://github.com/Azure/AzurePublicDataset) and BurstGPT
(https://github.com/HPMLL/BurstGPT).  Everything of JSON is in prompt_formats.
"""

import csv
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from bench.workload.prompt_formats import read_json_lines, read_text_lines
from bench.workload.trace_rows import FileRows, ReadingOptions, TraceRow
from servekit.errors.tree import WorkloadInvalid

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")
Reader = Callable[[Sequence[str], str, ReadingOptions], FileRows]

# BurstGPT's services are no models that a server has, and how long a request took then is no load.
_LABELS = frozenset({"Model", "Total tokens", "Log Type", "Session ID", "Elapsed time"})
_IMAGES = "NumImages"


def read_trace(text: str, source: str) -> list[TraceRow]:
    """Return the rows of *text* that can be sent, in order of time from 0 s.

    Raises:
        WorkloadInvalid: a line cannot be read; the message has its number.
    """
    return read_rows(text, source, ReadingOptions()).rows


def read_rows(text: str, source: str, options: ReadingOptions) -> FileRows:
    """Return the rows of *text* in order of time, and what was left out.

    Raises:
        WorkloadInvalid: a line cannot be read, or asks for what cannot be sent; the message has
            its number.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    if not any(line.strip() for line in lines):
        raise WorkloadInvalid(f"{source}: contains no requests")
    found = _reader(lines, source)(lines, source, options)
    if not found.rows:
        raise WorkloadInvalid(f"{source}: contains no requests that can be sent")
    start_s = min(row.at_s for row in found.rows)
    rows = [
        msgspec.structs.replace(row, at_s=row.at_s - start_s)
        for row in sorted(found.rows, key=lambda row: row.at_s)
    ]
    return msgspec.structs.replace(found, rows=rows)


def _reader(lines: Sequence[str], source: str) -> Reader:
    name = source.removesuffix(".gz")
    if next(line for line in lines if line.strip()).lstrip().startswith("{"):
        return read_json_lines
    if name.endswith(".txt"):
        return lambda lines, _, options: read_text_lines(lines, options)
    return _csv if name.endswith(".csv") else read_json_lines


def _csv(lines: Sequence[str], source: str, options: ReadingOptions) -> FileRows:
    reader = csv.DictReader(lines)
    columns = set(reader.fieldnames or ())
    if columns.issuperset(_AZURE):
        when, prompt, output = _AZURE
    elif columns.issuperset(_BURSTGPT):
        when, prompt, output = _BURSTGPT
    else:
        raise WorkloadInvalid(
            f"{source}, line 1: columns {sorted(columns)} are neither Azure's "
            f"({','.join(_AZURE)}) nor BurstGPT's ({','.join(_BURSTGPT)})"
        )
    known = {when, prompt, output, _IMAGES, *_LABELS, *options.ignored_fields}
    if unknown := sorted(columns - known):
        raise WorkloadInvalid(
            f"{source}, line 1: column {unknown[0]!r} cannot be sent; give --ignore-field "
            f"{unknown[0]}"
        )
    rows: list[TraceRow] = []
    left_out: dict[str, int] = {}
    left_out_tokens = 0
    for number, fields in enumerate(reader, start=2):
        where = f"{source}, line {number}"
        if _IMAGES not in options.ignored_fields:
            _refuse_images(fields.get(_IMAGES), where)
        try:
            row = TraceRow(_seconds(fields[when]), int(fields[prompt]), int(fields[output]))
        except (TypeError, ValueError) as error:
            raise WorkloadInvalid(f"{where}: not a request: {error}") from error
        reason = _why_left_out(row)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
            left_out_tokens += row.prompt_tokens
        else:
            rows.append(_checked(row, where))
    return FileRows(rows=rows, timed=True, left_out=left_out, left_out_tokens=left_out_tokens)


def _refuse_images(count: str | None, where: str) -> None:
    if count not in (None, "", "0"):
        raise WorkloadInvalid(
            f"{where}: column {_IMAGES!r} is {count}; images cannot be sent: give --ignore-field "
            f"{_IMAGES} to send the text tokens alone"
        )


def _why_left_out(row: TraceRow) -> str:
    """BurstGPT keeps requests that failed, with no tokens in answer."""
    if row.output_tokens == 0:
        return "failed when the trace was recorded: 0 output tokens"
    return "have a prompt of 0 tokens" if row.prompt_tokens == 0 else ""


def _seconds(when: str) -> float:
    """Read seconds, or Azure's date, whose seventh decimal no datetime has room for."""
    try:
        return float(when)
    except ValueError:
        return datetime.fromisoformat(when[:26]).replace(tzinfo=UTC).timestamp()


def _checked(row: TraceRow, where: str) -> TraceRow:
    if row.prompt_tokens < 1 or row.output_tokens < 1 or not 0 <= row.at_s < math.inf:
        raise WorkloadInvalid(
            f"{where}: {row.prompt_tokens} prompt and {row.output_tokens} output tokens at "
            f"{row.at_s} s; tokens must be at least 1, times at least 0"
        )
    return row
