"""The Prometheus text format -> samples.  Pure.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format.  It is our
own because a load balancer reads a 50 KB exposition several times a second per replica, and needs
eight of its lines.
"""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass

from servekit.errors.tree import MetricsInvalid

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,|(?=\}))')
_ESCAPE = re.compile(r'\\([\\n"])')
_UNESCAPED = {"\\": "\\", "n": "\n", '"': '"'}


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One line: `name{labels} value`."""

    name: str
    labels: dict[str, str]
    value: float


def samples(text: str, wanted: Container[str] | None = None) -> Iterator[MetricSample]:
    """Yield the samples of *text* in order; only those named in *wanted*, where it is given.

    Comments are skipped, timestamps and exemplars are dropped.

    Raises:
        MetricsInvalid: a wanted line is malformed; the message has its number.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _NAME.match(line)
        if match is None:
            raise _malformed(number, line)
        name = match.group()
        if wanted is None or name in wanted:
            yield _sample(name, line, match.end(), number)


def _sample(name: str, line: str, position: int, number: int) -> MetricSample:
    labels: dict[str, str] = {}
    rest = line[position:].lstrip()
    if rest.startswith("{"):
        labels, rest = _labels(rest, line, number)
    fields = rest.split()
    if not fields:
        raise _malformed(number, line)
    try:
        return MetricSample(name, labels, float(fields[0].replace("_", "x")))
    except ValueError as error:
        raise _malformed(number, line) from error


def _labels(rest: str, line: str, number: int) -> tuple[dict[str, str], str]:
    """Read `{a="1",b="2"}`; return the labels and what follows the brace."""
    labels: dict[str, str] = {}
    position = 1
    while not rest[position:].lstrip().startswith("}"):
        match = _LABEL.match(rest, position)
        if match is None:
            raise _malformed(number, line)
        labels[match[1]] = _ESCAPE.sub(lambda escape: _UNESCAPED[escape[1]], match[2])
        position = match.end()
    return labels, rest[rest.index("}", position) + 1 :]


def _malformed(number: int, line: str) -> MetricsInvalid:
    shown = line if len(line) <= 80 else line[:77] + "..."
    return MetricsInvalid(f"line {number} of /metrics is not a sample: {shown!r}")
