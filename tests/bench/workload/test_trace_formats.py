"""Traces of three kinds."""

from importlib import resources

import pytest

from bench.workload.trace_formats import read_rows, read_trace
from bench.workload.trace_rows import ReadingOptions, TraceRow
from bench.workload.traces.cut import cut
from servekit.errors.tree import WorkloadInvalid

LINE = '{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 7]}'


def test_a_mooncake_line_is_a_request_with_its_blocks() -> None:
    """Times start at the first request; blocks are kept."""
    rows = read_trace(f"{LINE}\n\n{LINE.replace('3000', '4500')}\n", "t.jsonl")

    assert rows == [TraceRow(0.0, 600, 5, (0, 7)), TraceRow(1.5, 600, 5, (0, 7))]


def test_an_azure_line_is_a_request() -> None:
    """Azure writes seven decimals of a second."""
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    )

    rows = read_trace(text, "azure.csv")

    assert rows[0] == TraceRow(0.0, 374, 44)
    assert rows[1].at_s == pytest.approx(4.314579, abs=1e-5)


def test_burstgpt_requests_that_failed_are_left_out() -> None:
    """A request that was answered with nothing cannot be replayed."""
    text = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n6,GPT-4,100,0,100,API log\n"
    )

    assert read_trace(text, "b.csv") == [TraceRow(0.0, 472, 18)]
    found = read_rows(text, "b.csv", ReadingOptions())
    assert found.left_out == {"failed when the trace was recorded: 0 output tokens": 1}
    assert found.left_out_tokens == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{LINE}\nnot json", r"t.jsonl, line 2: not JSON"),
        (f"{LINE}\n\n{{}}", r"t.jsonl, line 3: not a request"),
        (LINE.replace("600", "0"), r"t.jsonl, line 1: field 'input_length': 0 prompt"),
        ("", r"contains no requests"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(text: str, message: str) -> None:
    """Whoever made the trace learns which line to look at."""
    with pytest.raises(WorkloadInvalid, match=message):
        read_trace(text, "t.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"t.csv, line 1: columns"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n", r"t.csv, line 2: not a request"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n1,,1\n", r"t.csv, line 2: not a request"),
    ],
)
def test_a_csv_line_that_cannot_be_read_is_named(text: str, message: str) -> None:
    """Likewise for tables."""
    with pytest.raises(WorkloadInvalid, match=message):
        read_trace(text, "t.csv")


def test_the_kept_slice_is_its_own_cut() -> None:
    """Every line of the slice is one that the cut keeps, so the README's command makes it again."""
    kept = resources.files("bench.workload.traces") / "mooncake_conversation.jsonl"
    lines = kept.read_text().splitlines(keepends=True)

    assert list(cut(lines)) == lines
    assert len(read_trace("".join(lines), "mooncake")) == 3000


def test_rows_are_in_order_of_time() -> None:
    """Whatever the order of the lines; equal times keep it."""
    line = '{"timestamp": %d, "input_length": %d, "output_length": 5}'
    text = "\n".join(line % pair for pair in ((9000, 3), (4000, 1), (4000, 2)))

    assert [(row.at_s, row.prompt_tokens) for row in read_trace(text, "t")] == [
        (0.0, 1),
        (0.0, 2),
        (5.0, 3),
    ]


@pytest.mark.parametrize("when", ["1e999", "-1", "-1e-9"])
def test_a_time_that_is_none_is_refused(when: str) -> None:
    line = f'{{"timestamp": {when}, "input_length": 5, "output_length": 5}}'

    with pytest.raises(WorkloadInvalid, match="line 1"):
        read_trace(line, "t")
