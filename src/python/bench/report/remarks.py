"""What a reader must know beside the numbers of one arm, in sentences.  Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.loadgen.record import Record
from bench.stats.answers import lengths_of, off_what_was_asked
from bench.stats.comparison import Comparison
from bench.stats.plateau import Rates
from bench.stats.request_metrics import Totals, totals
from servekit.client.outcome import Notice

# What an odd answer means for its measures.
_MEANING: Mapping[str, str] = {
    Notice.NO_DONE: "a finish reason ended them",
    Notice.NO_FINISH: "[DONE] ended them",
    Notice.ODD_FINISH: "counted as whole",
    Notice.UNENDED: "its empty line is missing",
    Notice.AFTER_DONE: "ignored",
    Notice.NULL_CHOICES: "such events are skipped",
    Notice.CONTENT_TYPE: "an event stream under another name",
    Notice.COMPRESSED: "times are those at which the compressor let go of the data",
    Notice.NOT_STREAMED: "a stream was asked for; only E2E is known",
    Notice.STREAMED: "no stream was asked for",
    Notice.LINGERING: "the body was closed late; E2E ends at the last token",
    Notice.NOT_CLOSED: "the connection broke or timed out after [DONE]",
    Notice.BUFFERED: "all tokens came in one read; the time per token is unknown",
    Notice.BURSTS: "several tokens came in one read; gaps are inter-chunk latencies",
    Notice.SEVERAL_CHOICES: "their tokens are mixed; the time per token is unknown",
    Notice.NO_USAGE: "token counts are unknown, and so are token throughput and time per token",
    Notice.ZERO_USAGE: "counts of zero are unknown",
    Notice.FEWER_TOKENS: "gaps are inter-chunk latencies; a count far too low is unknown",
    Notice.MORE_TOKENS: "events hold several tokens; gaps are inter-chunk latencies",
    Notice.HIDDEN_REASONING: "reasoning was counted and not sent; TTFT is that of the answer",
    Notice.HIDDEN_TOKENS: "too little text for the count; the time per token is unknown",
    Notice.INLINE_REASONING: "the first answer token cannot be told from reasoning",
}


def remarks(records: Sequence[Record]) -> list[str]:
    """Return what is to be said of one arm's *records*: failures in the upstream's own words, once
    per kind; odd answers, once per kind; lengths that were not asked for."""
    total, lengths = totals(records), lengths_of(records)
    said = failures(total)
    said += [_odd(notice, n, total) for notice, n in total.notices.items()]
    said += off_what_was_asked(lengths) if lengths else []
    return said


def failures(total: Totals) -> list[str]:
    """Return each kind of failure with how often it came up and what was said of it."""
    return [
        f"{n} of {total.requests} requests failed: {error}"
        + (f" ({total.words[error]})" if total.words.get(error) else "")
        for error, n in total.errors.items()
    ]


def _odd(notice: str, n: int, total: Totals) -> str:
    meaning = _MEANING.get(notice)
    return (
        f"{n} of {total.requests - total.failed} answers: {notice}"
        f"{f' ({meaning})' if meaning else ''}"
    )


def plateau_text(found: Rates) -> str:
    """Return what the rates are of."""
    if found.reached:
        return f"rates are of {found.seconds:.1f} s between ramp and tail"
    return (
        "no plateau was reached: rates are of the whole run, ramp and tail included, and say "
        "little of what the upstream can do; send more requests"
    )


def rates_text(found: Comparison) -> str:
    """Return what throughput and goodput of a comparison are of."""
    row = found.row("request_throughput")
    if row.baseline is None or row.candidate is None:
        return (
            "No turn was long enough for a plateau: throughput and goodput are unknown; raise "
            "--steady-s"
        )
    if row.low is None:
        return (
            "Throughput and goodput are of the turns that reached a plateau, too few for an "
            "interval; --part-s as long as --steady-s gives one"
        )
    return "Throughput and goodput are of the plateaus of the turns"


def dropped_text(manifest: Mapping[str, Any]) -> str:
    """Return how much of the workload's file was left out, and what else is to be said of it; empty
    where all of it was used once."""
    about = manifest.get("schedule") or {}
    dropped = about.get("dropped")
    return "; ".join([*([str(dropped)] if dropped else []), *about.get("notes", [])])
