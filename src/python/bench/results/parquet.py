"""Records -> Parquet.  Pure.  Needs pyarrow, which is an extra: nothing else here does.

A row per request.  Times are nanoseconds from the start of the run, as `content_ns` is of every
event with text; what is unknown is null.
"""

import importlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any

from bench.loadgen.record import Record
from servekit.errors.tree import SettingInvalid


def check_parquet() -> None:
    """Raise unless Parquet can be written.

    Raises:
        SettingInvalid: pyarrow is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise SettingInvalid(
            "--parquet requires pyarrow; install servekit-bench[parquet], or run "
            "`report DIRECTORY --parquet` where it is installed"
        )


def records_parquet(records: Sequence[Record]) -> bytes:
    """Return *records* as a Parquet file.

    Raises:
        SettingInvalid: pyarrow is not installed.
    """
    check_parquet()
    # By name: a plain import would make an extra of some 50 MB a part of every installation.
    arrow: Any = importlib.import_module("pyarrow")
    write: Any = importlib.import_module("pyarrow.parquet")  # pants: no-infer-dep
    columns = {name: arrow.array(own, kind) for name, kind, own in _columns(records, arrow)}
    file = io.BytesIO()
    write.write_table(arrow.table(columns), file, compression="zstd")
    return file.getvalue()


def _columns(records: Sequence[Record], arrow: Any) -> list[tuple[str, Any, list[Any]]]:
    text, count, ns = arrow.string(), arrow.int32(), arrow.int64()
    return [
        ("arm", text, [r.arm for r in records]),
        ("part", count, [r.part for r in records]),
        ("model", text, [r.model for r in records]),
        ("conversation", ns, [r.conversation for r in records]),
        ("served_by", text, [r.served_by or None for r in records]),
        ("error", text, [r.error for r in records]),
        ("asked_prompt_tokens", count, [r.asked_prompt_tokens for r in records]),
        ("asked_output_tokens", count, [r.asked_output_tokens for r in records]),
        ("prompt_tokens", count, [r.prompt_tokens for r in records]),
        ("completion_tokens", count, [r.completion_tokens for r in records]),
        ("due_ns", ns, [_ns(r.due_s) for r in records]),
        ("sent_ns", ns, [_ns(r.sent_s) for r in records]),
        ("wrote_ns", ns, [_ns(r.wrote_s) for r in records]),
        ("end_ns", ns, [_ns(r.end_s) for r in records]),
        ("content_ns", arrow.list_(ns), [[_ns(at_s) for at_s in r.content_s] for r in records]),
    ]


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e9)
