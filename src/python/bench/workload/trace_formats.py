"""Published traces -> rows.  Pure.

Mooncake: JSON lines (https://github.com/kvcache-ai/Mooncake).  Azure 2023 and 2024: CSV with
TIMESTAMP,ContextTokens,GeneratedTokens (https://github.com/Azure/AzurePublicDataset).  BurstGPT:
CSV with Timestamp,Model,Request tokens,Response tokens,… (https://github.com/HPMLL/BurstGPT).
"""

import csv
import math
from collections.abc import Iterator
from datetime import datetime

import msgspec

from servekit.errors.tree import WorkloadInvalid


class TraceRow(msgspec.Struct, frozen=True):
    """One request of a trace.

    Attributes:
        at_s: from the first request of the trace.
        blocks: ids of the prompt's 512-token blocks; empty where the trace has none.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


class _MooncakeLine(msgspec.Struct, frozen=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


_decode_mooncake = msgspec.json.Decoder(_MooncakeLine).decode


def read_trace(text: str, source: str) -> list[TraceRow]:
    """Return the rows of *text*, whichever of the three formats it has, in order of time from 0 s.

    Raises:
        WorkloadInvalid: a line cannot be read; the message has its number.
    """
    lines = text.splitlines()
    if not any(line.strip() for line in lines):
        raise WorkloadInvalid(f"{source}: contains no requests")
    is_json = lines[0].lstrip().startswith("{") or not source.endswith(".csv")
    rows = list(_mooncake(lines, source) if is_json else _csv(lines, source))
    if not rows:
        raise WorkloadInvalid(f"{source}: contains no requests")
    start_s = min(row.at_s for row in rows)
    rows.sort(key=lambda row: row.at_s)
    return [msgspec.structs.replace(row, at_s=row.at_s - start_s) for row in rows]


def _mooncake(lines: list[str], source: str) -> Iterator[TraceRow]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            read = _decode_mooncake(line)
        except msgspec.ValidationError as error:
            raise WorkloadInvalid(f"{source}, line {number}: not a request: {error}") from error
        except msgspec.DecodeError as error:
            raise WorkloadInvalid(
                f"{source}, line {number}: not JSON: {error}; must have one JSON object per line"
            ) from error
        yield _checked(
            TraceRow(read.timestamp / 1e3, read.input_length, read.output_length, read.hash_ids),
            f"{source}, line {number}",
        )


def _csv(lines: list[str], source: str) -> Iterator[TraceRow]:
    reader = csv.DictReader(lines)
    columns = set(reader.fieldnames or ())
    if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= columns:
        when, prompt, output = "TIMESTAMP", "ContextTokens", "GeneratedTokens"
    elif {"Timestamp", "Request tokens", "Response tokens"} <= columns:
        when, prompt, output = "Timestamp", "Request tokens", "Response tokens"
    else:
        raise WorkloadInvalid(
            f"{source}, line 1: columns {sorted(columns)} are neither Azure's "
            "(TIMESTAMP,ContextTokens,GeneratedTokens) nor BurstGPT's "
            "(Timestamp,Request tokens,Response tokens)"
        )
    for number, fields in enumerate(reader, start=2):
        try:
            row = TraceRow(_seconds(fields[when]), int(fields[prompt]), int(fields[output]))
        except (TypeError, ValueError) as error:
            raise WorkloadInvalid(f"{source}, line {number}: not a request: {error}") from error
        # BurstGPT keeps requests that failed, with no tokens in answer.
        if row.output_tokens > 0:
            yield _checked(row, f"{source}, line {number}")


def _seconds(when: str) -> float:
    """Read seconds, or Azure's date, whose seventh decimal no datetime has room for."""
    try:
        return float(when)
    except ValueError:
        return datetime.fromisoformat(when[:26]).replace(tzinfo=None).timestamp()


def _checked(row: TraceRow, where: str) -> TraceRow:
    if row.prompt_tokens < 1 or row.output_tokens < 1 or not 0 <= row.at_s < math.inf:
        raise WorkloadInvalid(
            f"{where}: {row.prompt_tokens} prompt and {row.output_tokens} output tokens at "
            f"{row.at_s} s; tokens must be at least 1, times at least 0"
        )
    return row
