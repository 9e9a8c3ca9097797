"""Options that say what is requested: the same for every command that sends requests.  Pure.

Commands import what they need when they run, so that `--help` and mistakes answer at once.
"""

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from servekit.cli.options import old_name
from servekit.errors.tree import SettingInvalid

if TYPE_CHECKING:
    from bench.loadgen.session import Endpoint
    from bench.workload.generators import TokenLengths
    from bench.workload.trace_rows import ReadingOptions

APIS = ("completions", "chat", "embeddings", "responses")
_LENGTH_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "none")

# RFC 9110, 5.6.2: what a field's name may be made of.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# The client frames its requests by these.
_OWN_HEADERS = {"content-length", "transfer-encoding", "connection", "expect", "upgrade"}


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How requests are sent."""

    HEADING: ClassVar[str] = "Requests"
    endpoint_type: Annotated[
        str, typer.Option(help="API: completions, chat, embeddings or responses.")
    ] = "completions"
    streaming: Annotated[bool, typer.Option(help="Request streaming responses.")] = True
    path: Annotated[
        str,
        typer.Option(
            "--path",
            "--custom-endpoint",
            help="Path of the requests, with a query if needed. Default: the API's path.",
        ),
    ] = ""
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header", "-H", help="Header of every request, as 'Name: value'; repeatable."
        ),
    ] = None
    extra_body: Annotated[
        list[str] | None,
        typer.Option(
            "--extra-body",
            "--extra-inputs",
            help="Fields of every request body: a JSON object, or NAME:VALUE; null removes a "
            "field; repeatable.",
        ),
    ] = None
    force_length: Annotated[
        bool,
        typer.Option(
            help="Request exactly the output length (ignore_eos, min_tokens: vLLM's extensions)."
        ),
    ] = True
    length_field: Annotated[
        str,
        typer.Option(
            help="Field that limits the output: max_tokens, max_completion_tokens, "
            "max_output_tokens or none. Default: the API's."
        ),
    ] = ""
    text_prompts: Annotated[
        bool,
        typer.Option(
            "--text-prompts",
            help="Send prompts as text of the same token count instead of token ids.",
        ),
    ] = False
    timeout_s: Annotated[
        float,
        typer.Option("--request-timeout-s", old_name("--timeout-s"), help="Request timeout (s)."),
    ] = 300.0
    # Never on a command line, where others could read it, and never in a manifest.
    api_key: Annotated[
        str, typer.Option("--api-key", envvar="OPENAI_API_KEY", hidden=True, show_envvar=False)
    ] = ""

    def endpoint(self) -> "Endpoint":
        """Return where and how requests are sent.

        Raises:
            SettingInvalid: an option has a value that cannot be sent.
        """
        from bench.loadgen.session import Endpoint
        from bench.workload.request_bodies import Api, RequestShape

        if self.endpoint_type not in APIS:
            raise SettingInvalid(
                f"--endpoint-type must be one of {', '.join(APIS)}, not {self.endpoint_type!r}"
            )
        shape = RequestShape(
            api=Api(self.endpoint_type),
            stream=self.streaming,
            force_length=self.force_length,
            text_prompts=self.text_prompts,
            extra_body=_without_length(self.length_field) | read_fields(self.extra_body or []),
            length_field=_known_length_field(self.length_field),
        )
        return Endpoint(
            shape=shape,
            path=_checked_path(self.path),
            headers=read_headers(self.header or []),
            timeout_s=self.timeout_s,
            api_key=self.api_key,
        )


def read_headers(given: list[str]) -> dict[str, str]:
    """Return the headers in *given*, each `Name: value`.

    Raises:
        SettingInvalid: one is no header, or one by which a request is framed.
    """
    headers = {}
    for text in given:
        name, colon, value = text.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or not _HEADER_NAME.fullmatch(name):
            raise SettingInvalid("--header must have the form 'Name: value'")
        if not value.isascii() or not value.isprintable():
            raise SettingInvalid(f"--header {name}: the value must be printable ASCII text")
        if name.lower() in _OWN_HEADERS:
            raise SettingInvalid(f"--header {name} is set by the client itself; omit it")
        headers[name] = value
    return headers


def read_fields(given: list[str]) -> dict[str, Any]:
    """Return the fields in *given*: JSON objects, or NAME:VALUE with a value of JSON or text.

    Raises:
        SettingInvalid: one is neither.
    """
    fields: dict[str, Any] = {}
    for text in given:
        if text.lstrip().startswith("{"):
            fields |= _object(text)
            continue
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise SettingInvalid(
                f"--extra-body {text!r} must be a JSON object or NAME:VALUE, e.g. top_p:0.9"
            )
        fields[name.strip()] = _json_or_text(value.strip())
    for name in ("model", "stream"):
        if name in fields:
            raise SettingInvalid(
                f"--extra-body cannot set {name!r}; use --{name.replace('stream', 'streaming')}"
            )
    return fields


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise SettingInvalid(f"--extra-body {text!r} is not JSON: {error}") from error
    assert isinstance(found, dict)
    return found


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _known_length_field(name: str) -> str:
    if name and name not in _LENGTH_FIELDS:
        raise SettingInvalid(
            f"--length-field must be one of {', '.join(_LENGTH_FIELDS)}, not {name!r}"
        )
    return name if name != "none" else ""


def _without_length(name: str) -> dict[str, Any]:
    """The fields that `none` takes out of every body."""
    return dict.fromkeys(_LENGTH_FIELDS[:-1]) if name == "none" else {}


def _checked_path(path: str) -> str:
    """Return *path*, which begins with a slash and fits into the first line of a request."""
    if not path:
        return ""
    if not path.isascii() or not path.isprintable() or " " in path:
        raise SettingInvalid(f"--path {path!r} must be printable ASCII without blanks; encode it")
    return path if path.startswith("/") else f"/{path}"


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Lengths of generated prompts and outputs, and how a workload's file is read; genai-perf's and
    aiperf's names are accepted where their meaning is the same."""

    HEADING: ClassVar[str] = "Data"
    prompt_mean: Annotated[
        float,
        typer.Option("--synthetic-input-tokens-mean", "--isl", help="Mean prompt length (tokens)."),
    ] = 512.0
    prompt_stddev: Annotated[
        float,
        typer.Option(
            "--synthetic-input-tokens-stddev",
            "--isl-stddev",
            help="Standard deviation of the prompt length (tokens).",
        ),
    ] = 128.0
    output_mean: Annotated[
        float,
        typer.Option(
            "--output-tokens-mean",
            "--osl",
            help="Mean output length (tokens), also for rows of a file without one.",
        ),
    ] = 256.0
    output_stddev: Annotated[
        float,
        typer.Option(
            "--output-tokens-stddev",
            "--osl-stddev",
            help="Standard deviation of the output length (tokens).",
        ),
    ] = 64.0
    max_model_len: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Leave out requests with more prompt and output tokens than this. Default: "
            "max_model_len of /v1/models.",
        ),
    ] = None
    speed: Annotated[
        float | None,
        typer.Option(
            help="Replay a trace by its recorded times, this many times as fast; no rate."
        ),
    ] = None
    block_size: Annotated[
        int | None,
        typer.Option(
            "--block-size",
            "--isl-block-size",
            min=1,
            max=512,
            help="Tokens per hash_id of a trace. Default: 512 (Mooncake), 16 (Bailian).",
        ),
    ] = None
    ignore_field: Annotated[
        list[str] | None,
        typer.Option(help="Field or column of a file to leave out; repeatable."),
    ] = None
    max_turns: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Max turns per conversation. Default: all of a file's, 5 of generated ones.",
        ),
    ] = None
    turn_delay_s: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Multi-turn: send each turn this long after the previous answer, with its text "
            "(s).",
        ),
    ] = None
    recorded_answers: Annotated[
        bool,
        typer.Option(
            "--recorded-answers/--live-answers",
            help="Conversations of a file: repeat the file's answers, or the model's own.",
        ),
    ] = False

    def lengths(self) -> "TokenLengths":
        from bench.workload.generators import TokenLengths

        return TokenLengths(
            self.prompt_mean, self.prompt_stddev, self.output_mean, self.output_stddev
        )

    def reading(self, endpoint: "Endpoint") -> "ReadingOptions":
        """Return how a file is read for requests to *endpoint*."""
        from bench.workload.trace_rows import ReadingOptions

        return ReadingOptions(
            api=endpoint.shape.api,
            stream=endpoint.shape.streams,
            output_tokens=max(1, round(self.output_mean)),
            block_tokens=self.block_size,
            ignored_fields=frozenset(self.ignore_field or ()),
            max_turns=self.max_turns,
            recorded_answers=self.recorded_answers,
        )
