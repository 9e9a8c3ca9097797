"""The Prometheus text format, against the parser of prometheus_client."""

import math
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from servekit.errors.tree import MetricsInvalid
from servekit.metrics.exposition import MetricSample, samples

_GOLDENS = sorted(
    path.name
    for path in (resources.files("tests.golden") / "vllm").iterdir()
    if path.name.startswith("metrics_")
)


def _golden(name: str) -> str:
    return (resources.files("tests.golden") / "vllm" / name).read_text()


def _sort_key(sample: MetricSample) -> tuple[str, list[tuple[str, str]]]:
    return sample.name, sorted(sample.labels.items())


@pytest.mark.parametrize("name", _GOLDENS)
def test_agrees_with_prometheus_client_on_real_engines(name: str) -> None:
    """Every sample of every captured engine, with its labels and its value."""
    text = _golden(name)
    expected = [
        MetricSample(sample.name, dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]

    found = list(samples(text))

    assert len(found) > 100
    assert sorted(found, key=_sort_key) == sorted(expected, key=_sort_key)


@st.composite
def _sample_lines(draw: st.DrawFn) -> tuple[str, MetricSample]:
    name = draw(st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]*", fullmatch=True))
    labels = draw(
        st.dictionaries(
            st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True),
            st.text(st.characters(exclude_categories=["Cs"])),
            max_size=3,
        )
    )
    value = draw(st.floats(allow_nan=False))
    return _write(name, labels, value), MetricSample(name, labels, value)


def _write(name: str, labels: dict[str, str], value: float) -> str:
    escaped = {
        key: text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        for key, text in labels.items()
    }
    inside = ",".join(f'{key}="{text}"' for key, text in escaped.items())
    return f"{name}{{{inside}}} {value}" if labels else f"{name} {value}"


@given(lines=st.lists(_sample_lines()))
def test_what_is_written_is_read(lines: list[tuple[str, MetricSample]]) -> None:
    """Labels survive quotes, backslashes, braces and newlines in their values."""
    text = "\n".join(line for line, _ in lines)

    assert list(samples(text)) == [sample for _, sample in lines]


@given(text=st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but MetricsInvalid comes out of a text that is no exposition."""
    try:
        list(samples(text))
    except MetricsInvalid as error:
        assert "\n" not in str(error)


@given(text=st.from_regex(r'a\{?[a",=\\}{ 1]*', fullmatch=True))
def test_any_near_sample_is_read_or_refused(text: str) -> None:
    """The same for texts that look almost like a sample."""
    try:
        list(samples(text))
    except MetricsInvalid:
        return


@pytest.mark.parametrize("line", ["a", "a{", 'a{b="c" 1', 'a{b="c"d="e"} 1', "1a 2", "a one"])
def test_malformed_line_is_named(line: str) -> None:
    """The error gives the number of the line."""
    with pytest.raises(MetricsInvalid, match="line 2 of /metrics"):
        list(samples(f"ok 1\n{line}"))


def test_timestamp_is_dropped() -> None:
    """What follows the value is not the value."""
    assert list(samples('a{b="c"} 2.5 1700000000000')) == [MetricSample("a", {"b": "c"}, 2.5)]


def test_unwanted_lines_are_not_parsed() -> None:
    """A poll that needs eight lines does not care for the others' labels."""
    assert list(samples("b{broken 1\na 2", {"a"})) == [MetricSample("a", {}, 2.0)]


def test_infinities_and_nan_are_values() -> None:
    """Prometheus writes them, in its own spelling."""
    values = [sample.value for sample in samples("a +Inf\na -Inf\na NaN")]

    assert values[:2] == [math.inf, -math.inf]
    assert math.isnan(values[2])
