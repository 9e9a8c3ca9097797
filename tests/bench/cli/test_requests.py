"""One set of options: what each command that sends requests makes of them, seen by a server."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.cli.request_options import RequestOptions, read_fields, read_headers
from bench.target.arms import ENVIRONMENTS
from servekit.errors.tree import SettingInvalid
from tests.bench.cli.test_options import commands
from tests.support.openai_scribe import Scribe, scribe

SENDERS = ("run", "compare", "grid", "sweep", "search", "all-models")
SHARED = ("--header", "--extra-body", "--path", "--force-length", "--length-field")
DATA = ("--isl", "--osl", "--max-model-len", "--speed", "--block-size", "--ignore-field")


@pytest.fixture
def server() -> Iterator[Callable[..., Scribe]]:
    """Start servers in threads of their own: commands have event loops of their own, too."""
    stops: list[Callable[[], None]] = []

    def start(**options: Any) -> Scribe:
        ready: list[Scribe] = []
        is_ready, loop = threading.Event(), asyncio.new_event_loop()
        stop = asyncio.Event()

        async def serve() -> None:
            async with scribe(**options) as served:
                ready.append(served)
                is_ready.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
        thread.start()
        is_ready.wait(10)

        def end() -> None:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()

        stops.append(end)
        return ready[0]

    yield start
    for end in stops:
        end()


def called(folder: Path, command: str, *argv: str) -> None:
    """Call a command as the program does; its result must be success."""
    one = commands()[command]
    try:
        one.main([*argv, "--output-dir", str(folder)], standalone_mode=False)
    except SystemExit as ended:
        assert not ended.code


ONCE = {
    "run": ("run", "--num-requests", "3", "--concurrency", "1"),
    "compare": ("compare", "--parts", "1", "--part-s", "1", "--steady-s", "0", "--warmup-s", "0"),
    "grid": ("grid", "--parts", "1", "--part-s", "1", "--steady-s", "0", "--warmup-s", "0"),
    "sweep": ("sweep", "--concurrencies", "1", "--num-requests", "3"),
    "search": ("search", "--max-trials", "1", "--seconds", "1", "--start-rate", "3"),
    "all-models": ("all-models", "baseline", "1", "3"),
}


def ask(folder: Path, command: str, url: str, *argv: str) -> None:
    name, *own = ONCE[command]
    arms = {"compare": [url, url], "grid": [url] * 4}.get(command, ["--url", url])
    shape = ["--rate", "4"] if command in ("compare", "grid") else []
    called(folder, name, *own, *arms, *shape, *argv)


@pytest.mark.parametrize("command", SENDERS)
def test_every_command_has_the_same_options(command: str) -> None:
    """What one can send, all can."""
    known = {name for one in commands()[command].params for name in one.opts}

    assert set(SHARED) <= known
    assert set(DATA) <= known


@pytest.mark.parametrize("command", SENDERS)
@pytest.mark.parametrize("api", ["completions", "chat", "embeddings", "responses"])
def test_every_command_sends_every_api(
    tmp_path: Path, server: Callable[..., Scribe], command: str, api: str
) -> None:
    """With the same headers, fields, path and lengths."""
    served = server()
    ask(
        tmp_path,
        command,
        served.url,
        *("--endpoint-type", api, "--path", f"/v9/{api}?v=2", "-H", "x-test: a: b"),
        *("--extra-body", '{"top_p": 0.5, "temperature": null}', "--extra-body", "user:me"),
        *("--no-force-length", "--isl", "33", "--isl-stddev", "0", "--osl", "5"),
    )

    path, headers, body = served.requests[-1]
    assert path == f"/v9/{api}?v=2"
    assert headers["x-test"] == "a: b"
    assert (body["top_p"], body["user"], body["model"]) == (0.5, "me", "m")
    assert not {"ignore_eos", "min_tokens", "temperature"} & set(body)
    prompt = body.get("prompt") or body.get("input") or body["messages"][0]["content"]
    assert len(prompt.split() if isinstance(prompt, str) else prompt) == 33


def test_a_length_field_takes_the_place_of_the_usual_one(
    tmp_path: Path, server: Callable[..., Scribe]
) -> None:
    """OpenAI's reasoning models refuse max_tokens; some servers take no limit at all."""
    served = server()
    chat = ("--endpoint-type", "chat", "--osl", "5", "--osl-stddev", "0")

    ask(tmp_path, "run", served.url, *chat, "--length-field", "max_completion_tokens")
    limited = served.bodies[-1]
    ask(tmp_path, "run", served.url, *chat, "--length-field", "none", "--no-force-length")

    assert limited["max_completion_tokens"] == 5
    assert "max_tokens" not in limited
    assert not {"max_tokens", "max_completion_tokens"} & set(served.bodies[-1])


@pytest.mark.parametrize(("limit", "sent"), [(None, {900}), (500, set()), (8_192, {900})])
def test_the_length_limit_is_the_servers(
    tmp_path: Path, server: Callable[..., Scribe], limit: int | None, sent: set[int]
) -> None:
    """As /v1/models says it; a server that does not say it has none."""
    served = server(max_model_len=limit)
    rows = [{"timestamp": n, "input_length": n, "output_length": 5} for n in (900, 90)]
    trace = tmp_path / "t.jsonl"
    trace.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    ask(tmp_path, "run", served.url, "--workload", str(trace), "--rate", "50")

    lengths = {len(body["prompt"]) for body in served.bodies}
    assert lengths == sent | {90}


def test_all_models_ends_with_one_table(
    tmp_path: Path, server: Callable[..., Scribe], capsys: pytest.CaptureFixture[str]
) -> None:
    """A line per model, and the same in a file."""
    served = server()

    models = ("--model", "m", "--model", "n", "--pause-s", "0")
    ask(tmp_path, "all-models", served.url, *models, "--isl", "9")

    table = capsys.readouterr().out.rsplit("E2E p50 (ms)", 1)[1].splitlines()
    assert [line.split()[0] for line in table[1:3]] == ["m", "n"]
    (kept,) = (tmp_path / "baseline-models").glob("*/models.json")
    rows = json.loads(kept.read_text())
    assert [(row["model"], row["requests"], row["failed"]) for row in rows] == [
        ("m", 3, 0),
        ("n", 3, 0),
    ]


def test_a_run_of_an_environment_is_found_under_the_originals_name(
    tmp_path: Path, server: Callable[..., Scribe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """results/ENV/genai_perf_*/ with profile_export.csv and .json."""
    monkeypatch.setitem(ENVIRONMENTS, "baseline", server().url)

    called(tmp_path, "run", "--env", "baseline", "--num-requests", "2", "--concurrency", "1")

    (found,) = (tmp_path / "baseline").glob("genai_perf_*")
    assert (found / "profile_export.csv").is_file()
    assert (found / "profile_export.json").is_file()


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_generated_conversations_repeat_what_was_said(
    tmp_path: Path, server: Callable[..., Scribe], api: str
) -> None:
    """And each turn adds as many tokens as were asked, whatever a token is there."""
    served = server(count=lambda text: len(text))
    turns = ("--workload", "multi-turn", "--turn-delay-s", "0", "--max-turns", "2")

    ask(
        tmp_path,
        "run",
        served.url,
        *turns,
        "--endpoint-type",
        api,
        "--isl",
        "50",
        "--isl-stddev",
        "0",
        "--num-requests",
        "2",
    )

    first, second = served.bodies[-2:]
    if api == "chat":
        question, answer, again = (one["content"] for one in second["messages"])
        assert first["messages"] == [{"role": "user", "content": question}]
    else:
        question, answer, again = second["prompt"].split("\n")
        assert first["prompt"] == question
    assert answer.startswith("answer ")
    assert (len(question), len(again)) == (50, 50)


def test_headers_are_in_no_result(tmp_path: Path, server: Callable[..., Scribe]) -> None:
    """A header may be a key, and results are passed on."""
    served = server()

    ask(tmp_path, "run", served.url, "--header", "api-key: secret-7")

    assert served.requests[-1][1]["api-key"] == "secret-7"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"secret-7" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no colon", "form 'Name: value'"),
        ("two words: x", "form 'Name: value'"),
        ("x: a\nb", "printable ASCII"),
        ("Content-Length: 5", "set by the client itself"),
    ],
)
def test_a_header_that_is_none_is_refused(given: str, message: str) -> None:
    """Without its value, which may be a key."""
    with pytest.raises(SettingInvalid, match=message):
        read_headers([given])


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        (['{"a": {"b": 1}}'], {"a": {"b": 1}}),
        (["a:1", "b:text", "c:null", "d:[1]"], {"a": 1, "b": "text", "c": None, "d": [1]}),
        (["a:1", '{"a": 2}'], {"a": 2}),
    ],
)
def test_fields_are_json_or_a_name_and_a_value(given: list[str], fields: dict[str, Any]) -> None:
    """As aiperf's --extra-inputs take them; the last one wins."""
    assert read_fields(given) == fields


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{", "not JSON"),
        ("a", "JSON object or NAME:VALUE"),
        ("model:x", "use --model"),
        ("stream:true", "use --streaming"),
    ],
)
def test_fields_that_are_none_are_refused(given: str, message: str) -> None:
    """And those that have an option."""
    with pytest.raises(SettingInvalid, match=message):
        read_fields([given])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RequestOptions(endpoint_type="images"), "must be one of completions, chat"),
        (RequestOptions(path="/a b"), "without blanks"),
        (RequestOptions(length_field="tokens"), "must be one of max_tokens"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(options: RequestOptions, message: str) -> None:
    """With those that there are."""
    with pytest.raises(SettingInvalid, match=message):
        options.endpoint()


@pytest.mark.parametrize(
    ("names", "folders"),
    [(("--names", "old,new"), {"old", "new"}), ((), {"http---127.0.0.1-1", "http---127.0.0.1-2"})],
)
def test_arms_have_names_of_their_own(
    tmp_path: Path, server: Callable[..., Scribe], names: tuple[str, ...], folders: set[str]
) -> None:
    """Those that are given; numbers where one server is both arms."""
    url = server().url

    ask(tmp_path, "compare", url, *names)

    port = url.rpartition(":")[2]
    assert {one.name.replace(f"-{port}", "") for one in tmp_path.iterdir()} == folders


@pytest.mark.parametrize("names", ["one", "a,a", "a,", "a,b,c"])
def test_names_that_are_not_one_for_each_arm_are_refused(
    tmp_path: Path, server: Callable[..., Scribe], names: str
) -> None:
    """Results are kept by name."""
    with pytest.raises(SettingInvalid, match="must be 2 different names"):
        ask(tmp_path, "compare", server().url, "--names", names)
