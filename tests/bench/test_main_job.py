"""The runner as it is called: two fleets, two load balancers, one verdict, nothing left behind."""

import csv
import json
from pathlib import Path

import pytest

from bench.target.processes import Program, stopped_at_the_end
from tests.bench.program import processes_in, runner

SMALL = ("--parts", "2", "--part-s", "2", "--steady-s", "0", "--warmup-s", "1", "--rate", "8")
pytestmark = pytest.mark.timeout(120)


def test_the_main_job_compares_two_fleets_and_leaves_results(tmp_path: Path) -> None:
    """A table and a verdict on the terminal; for each arm a folder that is complete in itself."""
    with runner(tmp_path, *SMALL) as process:
        output, errors = process.communicate(timeout=100)

    assert process.returncode == 0, errors
    assert "TTFT p50 (ms)" in output
    assert "client:" in output
    for env in ("baseline", "managed"):
        (folder,) = (tmp_path / "results" / env).iterdir()
        comparison = json.loads((folder / "comparison.json").read_text())
        assert comparison["partial"] is False
        assert comparison["metrics"]["error_rate"]["baseline"] == 0.0
        assert comparison["metrics"]["error_rate"]["candidate"] == 0.0
        (header, *rows) = csv.reader((folder / "profile_export.csv").read_text().splitlines())
        assert header[0] == "Metric"
        assert rows[0][0] == "Time To First Token (ms)"
        export = json.loads((folder / "profile_export.json").read_text())
        assert export["request_count"]["avg"] > 5
        assert (folder / "report.html").read_text().startswith("<!doctype html>")
        served = {json.loads(line)["metadata"]["worker_id"] for line in _lines(folder)}
        assert served <= {
            f"{m}-{n}" for m in ("llama-8b", "qwen-7b", "mixtral-8x7b") for n in (1, 2)
        }
        assert len(served) > 2
    assert processes_in(tmp_path) == []


def _lines(folder: Path) -> list[str]:
    return (folder / "profile_export.jsonl").read_text().splitlines()


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (
            ["run", "--env", "production"],
            2,
            "--env must be one of baseline, managed, not 'production'",
        ),
        (["run"], 2, "give either --env baseline|managed or --url"),
        (["run", "--url", "nonsense"], 2, "write http://host:port"),
        (["run", "--url", "http://127.0.0.1:9", "--model", "m", "--rate", "0"], 2, "rate is 0"),
        (["run", "--url", "http://127.0.0.1:9"], 1, "cannot be reached"),
        (["--balancers", "managed:nonsense,baseline"], 1, "nonsense"),
        (["--balancers", "managed"], 2, "must name two load balancers"),
        (["--fleet", "z9000"], 2, "neither a file nor"),
        (["--workload", "bad.jsonl"], 2, "bad.jsonl, line 2: not JSON"),
        (["--workload", "nothing"], 2, "neither a file nor a built-in workload"),
        (["compare", "http://127.0.0.1:9", "."], 2, "is not a saved run"),
        (["grid", "a", "b"], 2, "needs 4 arms"),
        (["run", "--url", "http://127.0.0.1:9", "--backend", "triton"], 2, "must be 'vllm'"),
        (["run", "--url", "http://x", "-m", "m", "--isl", "9", "--workload", "mooncake"], 2, "isl"),
        (["run", "--url", "http://x", "-m", "m", "--rate", "1", "--speed", "1"], 2, "not both"),
        (["run", "--url", "http://x", "-m", "m=0"], 2, "'0' must be a share above 0: NAME=2"),
        (["compare", "a", "b", "--png", "--browser", "none"], 2, "requires Chromium"),
        (["compare", "http://127.0.0.1:9", "http://x", "--expect-version", "1"], 1, "no engine"),
        (["aiperf", "--url", "http://x", "-m", "m", "--aiperf", "none"], 2, "install aiperf"),
        (["report", "."], 2, "is not a saved run"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, argv: list[str], code: int, message: str) -> None:
    """What, where and what to do; 2 for wrong use, 1 for failure; never a traceback."""
    line = '{"timestamp": 0, "input_length": 1, "output_length": 1}'
    (tmp_path / "bad.jsonl").write_text(f"{line}\n{line[:-1]}\n")

    with runner(tmp_path, *argv) as process:
        _, errors = process.communicate(timeout=60)

    assert message in errors
    assert "Traceback" not in errors
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    assert process.returncode == code
    assert processes_in(tmp_path) == []


def test_the_seeds_command_line_is_understood(tmp_path: Path) -> None:
    """What genai_perf_runner gave genai-perf measures the same here, and keeps a report; the
    token counts are those of the command line."""
    with stopped_at_the_end() as programs:
        programs.append(
            Program(
                "mock", ["bench.target.mock_server", "--tokens", "7"], log=tmp_path / "mock.log"
            )
        )
        url = programs[-1].ready()["url"]
        argv = ["run", "-m", "mock", "--backend", "vllm", "--url", url, "--streaming"]
        argv += ["--concurrency", "2", "--request-count", "6"]
        argv += ["--synthetic-input-tokens-mean", "40", "--synthetic-input-tokens-stddev", "0"]
        argv += ["--output-tokens-mean", "7", "--output-tokens-stddev", "0", "--generate-plots"]
        with runner(tmp_path, *argv, "--browser", "none") as process:
            output, errors = process.communicate(timeout=60)

    assert process.returncode == 0, errors
    assert "plots are only in report.html" in errors
    (folder,) = (tmp_path / "results" / "url").iterdir()
    schedule = (folder / "schedule.jsonl").read_text().splitlines()[1:]
    asked = [json.loads(line) for line in schedule]
    assert {(one["prompt_tokens"], one["output_tokens"]) for one in asked} == {(40, 7)}
    export = json.loads((folder / "profile_export.json").read_text())
    assert export["output_sequence_length"]["avg"] == 7.0
    assert "Validity" in (folder / "report.html").read_text()
    assert "Requests completed per second" in output


def test_what_was_saved_is_asked_of_one_that_runs(tmp_path: Path) -> None:
    """A saved open loop is replayed against a URL, and both are compared; the key is not kept."""
    with stopped_at_the_end() as programs:
        programs.append(
            Program(
                "mock", ["bench.target.mock_server", "--tokens", "5"], log=tmp_path / "mock.log"
            )
        )
        url = programs[-1].ready()["url"]
        load = ["-m", "mock", "--rate", "20", "--request-count", "30", "--isl", "30", "--osl", "5"]
        with runner(tmp_path, "run", "--url", url, *load, "--api-key", "secret-1") as process:
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        (saved,) = (tmp_path / "results" / "url").iterdir()
        with runner(tmp_path, "compare", str(saved), url) as process:
            output, errors = process.communicate(timeout=60)

    assert "secret-1" not in (saved / "manifest.json").read_text()
    assert process.returncode == 0, errors
    assert "separate runs" in output
    (folder,) = next(iter((tmp_path / "results").glob("url-against-*"))).iterdir()
    assert json.loads((folder / "comparison.json").read_text())["interleaved"] is False


def test_a_run_in_which_nothing_was_answered_fails(tmp_path: Path, unused_tcp_port: int) -> None:
    """And says why, in its exports too."""
    url = f"http://127.0.0.1:{unused_tcp_port}"
    argv = ["run", "--url", url, "-m", "m", "--num-requests", "3", "--concurrency", "1"]
    with runner(tmp_path, *argv) as process:
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "3 of 3 requests failed: refused (nothing listens there)" in output
    (folder,) = (tmp_path / "results" / "url").iterdir()
    export = json.loads((folder / "profile_export.json").read_text())
    assert export["error_messages"] == {"refused": "nothing listens there"}
    assert "refused (nothing listens there)" in (folder / "report.html").read_text()
