"""Files of prompts, messages and whole requests -> rows.  Pure.

A row of JSON says by its fields what it is, so that files may mix them.  Read are ShareGPT
(`conversations`), OpenAI's batch input (`body`), inputs of aiperf (`text`, `turns`, `messages`,
`payload`, `input_length`) and of genai-perf (`data` with `payload`), vLLM's bench sets (`prompt`,
`turns`), and traces of Mooncake and Bailian (`hash_ids`).  A field that cannot be honoured is
refused by its name: what it would have done to the load, no number shows.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bench.workload.request_bodies import PATHS, Api
from bench.workload.schedule import BLOCK_TOKENS
from bench.workload.trace_rows import CHARS_PER_TOKEN, FileRows, ReadingOptions, TraceRow
from servekit.errors.tree import WorkloadInvalid

# Blocks of Bailian's traces (https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon).
_BAILIAN_BLOCK_TOKENS = 16

# What says where a row comes from, and changes nothing about the request.
_LABELS = {
    *("id", "custom_id", "question_id", "chat_id", "parent_chat_id", "turn", "method", "type"),
    *("category", "source", "name", "title", "dataset", "language", "tags"),
    *("reference", "ground_truth"),
}
# Of a request, and sent as they are.
_REQUEST_FIELDS = {
    *("temperature", "top_p", "top_k", "min_p", "n", "stop", "stop_token_ids", "seed", "user"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "logprobs"),
    *("top_logprobs", "priority", "cache_salt", "dimensions", "encoding_format", "echo"),
    *("structured_outputs", "service_tier", "metadata", "suffix"),
}
_CHAT_FIELDS = {
    *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
    *("reasoning", "instructions", "chat_template_kwargs"),
}
_PROMPTS = ("prompt", "text", "text_input", "input", "question", "texts", "messages")
_LENGTHS = (
    *("max_completion_tokens", "max_tokens", "max_output_tokens"),
    *("output_length", "output_tokens"),
)
_TIMES = ("timestamp", "delay", "session_id")
_REMEDY = "remove it, or give --ignore-field {}"


def read_json(content: bytes, source: str, options: ReadingOptions) -> FileRows:
    """Return the rows of a JSON file: ShareGPT, or genai-perf's or aiperf's inputs.json.

    Raises:
        WorkloadInvalid: it is something else, or a row of it cannot be sent.
    """
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WorkloadInvalid(f"{source}: not JSON: {error}") from error
    rows = found.get("data") if isinstance(found, dict) else found
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise WorkloadInvalid(
            f"{source}: must be a list of objects, an object with 'prompts', or one with 'data'"
        )
    return _read(((f"{source}, entry {n}", row) for n, row in enumerate(rows, 1)), source, options)


def read_json_lines(lines: Sequence[str], source: str, options: ReadingOptions) -> FileRows:
    """Return the rows of a file of JSON lines.

    Raises:
        WorkloadInvalid: a line cannot be read or sent; the message has its number.
    """
    return _read(_objects(lines, source), source, options)


def read_text_lines(lines: Sequence[str], options: ReadingOptions) -> FileRows:
    """Return a row for each line that is not blank: a prompt."""
    rows = [_text_row(line.strip(), options.output_tokens) for line in lines if line.strip()]
    return FileRows(rows=rows, timed=False)


def _objects(lines: Sequence[str], source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            found = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise WorkloadInvalid(
                f"{where}: not JSON: {error}; must have one JSON object per line"
            ) from error
        if not isinstance(found, dict):
            raise WorkloadInvalid(f"{where}: must be a JSON object, not {line.strip()[:40]!r}")
        yield where, found


def _read(
    objects: Iterator[tuple[str, dict[str, Any]]], source: str, options: ReadingOptions
) -> FileRows:
    rows: list[TraceRow] = []
    left_out: dict[str, int] = {}
    times: set[bool] = set()
    for where, found in objects:
        reader = _RowReader(where, options)
        given = {
            name: value
            for name, value in found.items()
            if value is not None and name not in options.ignored_fields
        }
        own = reader.rows(given)
        if not own:
            reason = "are conversations without a question and its answer"
            left_out[reason] = left_out.get(reason, 0) + 1
        times |= {reader.is_timed} if own else set()
        rows += own
    if len(times) > 1:
        raise WorkloadInvalid(f"{source}: some rows have a timestamp and some have none")
    return FileRows(rows=_chained(rows, source), timed=times == {True}, left_out=left_out)


def _chained(rows: list[TraceRow], source: str) -> list[TraceRow]:
    """Return *rows* with those that follow another of their session marked: all but its first.

    Raises:
        WorkloadInvalid: a row that follows no other has a delay.
    """
    begun_s: dict[str, float] = {}
    chained = []
    for row in rows:
        if row.delay_s and row.session not in begun_s:
            raise WorkloadInvalid(
                f"{source}: field 'delay' is {row.delay_s:g} s in a row that follows no other of "
                f"its session; remove it, give a timestamp, or give --ignore-field delay"
            )
        if not row.session:
            chained.append(msgspec.structs.replace(row, delay_s=None))
        elif row.session not in begun_s:
            begun_s[row.session] = row.at_s
            chained.append(msgspec.structs.replace(row, delay_s=None))
        else:
            at_s = row.at_s or begun_s[row.session]
            chained.append(msgspec.structs.replace(row, at_s=at_s, delay_s=row.delay_s or 0.0))
    return chained


class _RowReader:
    """Reads one object of a file; its errors begin with *where*."""

    def __init__(self, where: str, options: ReadingOptions) -> None:
        self.is_timed = False
        self._where = where
        self._options = options

    def rows(self, found: dict[str, Any]) -> list[TraceRow]:
        """Return what *found* asks for: several rows where it is a conversation."""
        if "conversations" in found:
            return self._sharegpt(found)
        if "turns" in found:
            return self._turns(found)
        if isinstance(found.get("payload"), list) or "payloads" in found:
            return self._payloads(found)
        if "body" in found:
            return [self._batch(found)]
        if "payload" in found:
            return [self._payload(found)]
        if "input_length" in found:
            return [self._lengths(found)]
        return [self._prompt(found)]

    def _sharegpt(self, found: dict[str, Any]) -> list[TraceRow]:
        self._refuse_rest(found, {"conversations"})
        rows: list[TraceRow] = []
        before: list[dict[str, Any]] = []
        for said, answer in _pairs(self._spoken(found["conversations"])):
            kind, text = said
            if kind == "system":
                before.append({"role": "system", "content": text})
                continue
            if kind not in ("human", "user") or answer is None or not text or not answer:
                continue
            rows.append(
                TraceRow(
                    at_s=0.0,
                    prompt_tokens=_tokens(text),
                    output_tokens=_tokens(answer),
                    messages=(*before, {"role": "user", "content": text}) if before else (),
                    text="" if before else text,
                    session=self._where,
                    answer=answer if self._options.recorded_answers else "",
                    recalls=True,
                )
            )
            before = []
        return rows[: self._options.max_turns]

    def _spoken(self, conversation: Any) -> list[tuple[str, str]]:
        try:
            return [(one["from"], one["value"]) for one in conversation]
        except (TypeError, KeyError) as error:
            raise self._invalid(
                "'conversations' must be a list of objects with 'from' and 'value'"
            ) from error

    def _turns(self, found: dict[str, Any]) -> list[TraceRow]:
        """A conversation: texts (vLLM's sets) or objects (aiperf's)."""
        self._refuse_rest(found, {"turns", "session_id"})
        turns = found["turns"]
        if not isinstance(turns, list) or not turns:
            raise self._invalid("'turns' must be a list that is not empty")
        session = str(found.get("session_id") or self._where)
        rows = []
        for turn in turns[: self._options.max_turns]:
            given = {"text": turn} if isinstance(turn, str) else turn
            if not isinstance(given, dict):
                raise self._invalid(f"a turn must be text or an object, not {turn!r}")
            row = self._prompt({k: v for k, v in given.items() if v is not None})
            rows.append(msgspec.structs.replace(row, session=session, recalls=True))
        return rows

    def _payloads(self, found: dict[str, Any]) -> list[TraceRow]:
        """genai-perf's `payload` lists, and aiperf's `payloads`: a session of whole requests."""
        name = "payloads" if "payloads" in found else "payload"
        self._refuse_rest(found, {name, *_TIMES, *_LENGTHS})
        rest = {k: v for k, v in found.items() if k != name}
        session = str(found.get("session_id") or self._where)
        rows = [self._payload({**rest, "payload": one}) for one in found[name]]
        return [msgspec.structs.replace(row, session=session) for row in rows]

    def _payload(self, found: dict[str, Any]) -> TraceRow:
        self._refuse_rest(found, {"payload", *_TIMES, *_LENGTHS})
        row = self._whole(found["payload"])
        return self._timed(self._output(row, found), found)

    def _batch(self, found: dict[str, Any]) -> TraceRow:
        """A line of OpenAI's batch input."""
        self._refuse_rest(found, {"body", "url"})
        path, used = found.get("url"), PATHS[self._options.api]
        if path not in (None, used):
            raise self._invalid(
                f"field 'url' is {path}, and requests go to {used}; set --endpoint-type"
            )
        return self._whole(found["body"])

    def _whole(self, body: Any) -> TraceRow:
        """A whole request, which is sent as it is."""
        if not isinstance(body, dict):
            raise self._invalid(f"a request must be an object, not {body!r}")
        ignored = self._options.ignored_fields
        given = {k: v for k, v in body.items() if k not in ignored}
        stream, model = given.pop("stream", None), str(given.pop("model", ""))
        if stream is not None and bool(stream) != self._options.stream:
            raise self._invalid(
                f"field 'stream' is {stream}; give {'--streaming' if stream else '--no-streaming'}"
            )
        needed = {Api.CHAT: "messages", Api.COMPLETIONS: "prompt"}.get(self._options.api, "input")
        if needed not in given:
            raise self._invalid(
                f"a request to {PATHS[self._options.api]} must have {needed!r}; set --endpoint-type"
            )
        row = TraceRow(
            at_s=0.0,
            prompt_tokens=max(1, _prompt_tokens(given[needed])),
            output_tokens=self._options.output_tokens,
            body=given,
            model=model,
        )
        return self._output(row, given)

    def _lengths(self, found: dict[str, Any]) -> TraceRow:
        """A trace's row: token counts and blocks."""
        is_bailian = "chat_id" in found
        self._refuse_rest(found, {"input_length", "hash_ids", "extra", *_TIMES, *_LENGTHS})
        blocks = self._blocks(found.get("hash_ids", []))
        size = self._options.block_tokens or (_BAILIAN_BLOCK_TOKENS if is_bailian else BLOCK_TOKENS)
        row = TraceRow(
            at_s=0.0,
            prompt_tokens=self._whole_number(found, "input_length"),
            output_tokens=self._options.output_tokens,
            blocks=blocks,
            block_tokens=size,
            fields=self._object(found.get("extra", {}), "extra"),
            recalls="session_id" in found,
        )
        row = self._timed(self._output(row, found), found, unit_s=1.0 if is_bailian else 1e-3)
        self._check_blocks(row)
        return row

    def _check_blocks(self, row: TraceRow) -> None:
        """Blocks of another size would share other prefixes than the trace's requests did."""
        filled = math.ceil(row.prompt_tokens / row.block_tokens)
        if row.blocks and abs(len(row.blocks) - filled) > max(1, filled // 50):
            raise self._invalid(
                f"{len(row.blocks)} hash_ids for {row.prompt_tokens} tokens are not blocks of "
                f"{row.block_tokens} tokens; set --block-size"
            )

    def _prompt(self, found: dict[str, Any]) -> TraceRow:
        """A prompt, or messages, with what else a request may have."""
        names = [name for name in _PROMPTS if name in found]
        if len(names) != 1:
            raise self._invalid(
                f"not a request: must have exactly one of {', '.join(_PROMPTS)}, payload, body, "
                f"turns, conversations or input_length, not {', '.join(names) or 'none'}"
            )
        (name,) = names
        sent = _REQUEST_FIELDS | (_CHAT_FIELDS if self._takes_roles else set())
        self._refuse_rest(found, {name, "role", "extra", "model", *_TIMES, *_LENGTHS, *sent})
        fields = {k: v for k, v in found.items() if k in sent}
        fields.update(self._object(found.get("extra", {}), "extra"))
        row = self._content(name, found[name], str(found.get("role", "user")))
        row = msgspec.structs.replace(row, fields=fields, model=str(found.get("model", "")))
        return self._timed(self._output(row, found), found)

    @property
    def _takes_roles(self) -> bool:
        return self._options.api in (Api.CHAT, Api.RESPONSES)

    def _content(self, name: str, value: Any, role: str) -> TraceRow:
        if name == "texts" and isinstance(value, list) and len(value) == 1:
            value = value[0]
        if name == "messages":
            return self._message_row(value)
        if not isinstance(value, str) or not value:
            raise self._invalid(f"field {name!r} must be text that is not empty, not {value!r:.60}")
        if role == "user":
            return _text_row(value, self._options.output_tokens)
        if not self._takes_roles:
            raise self._invalid(
                f"field 'role' is {role!r}, which only --endpoint-type chat and responses can send"
            )
        return self._message_row([{"role": role, "content": value}])

    def _message_row(self, value: Any) -> TraceRow:
        is_list = isinstance(value, list) and value
        if not is_list or not all(isinstance(one, dict) and "role" in one for one in value):
            raise self._invalid("field 'messages' must be a list of objects with a 'role'")
        is_text = all(isinstance(one.get("content"), str) for one in value)
        if not self._takes_roles and not is_text:
            raise self._invalid(
                "field 'messages' has content that is not text, which only --endpoint-type chat "
                "and responses can send"
            )
        return TraceRow(
            at_s=0.0,
            prompt_tokens=max(1, _prompt_tokens(value)),
            output_tokens=self._options.output_tokens,
            messages=tuple(value),
        )

    def _output(self, row: TraceRow, found: Mapping[str, Any]) -> TraceRow:
        """Return *row* with the output length that is given, if one is."""
        for name in _LENGTHS:
            if name in found:
                tokens = self._whole_number(found, name)
                return msgspec.structs.replace(row, output_tokens=tokens)
        return row

    def _timed(self, row: TraceRow, found: Mapping[str, Any], unit_s: float = 1e-3) -> TraceRow:
        if "timestamp" in found and "delay" in found:
            raise self._invalid("a row has a timestamp or a delay, not both")
        at_s = self._seconds(found, "timestamp", unit_s)
        self.is_timed |= at_s is not None
        return msgspec.structs.replace(
            row,
            at_s=at_s or 0.0,
            session=str(found.get("session_id", "")),
            delay_s=self._seconds(found, "delay", unit_s),
        )

    def _seconds(self, found: Mapping[str, Any], name: str, unit_s: float) -> float | None:
        value = found.get(name)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value < math.inf:
            raise self._invalid(f"field {name!r} is {value!r}; must be a time of at least 0")
        return float(value) * unit_s

    def _whole_number(self, found: Mapping[str, Any], name: str) -> int:
        value = found[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            what = {"input_length": "prompt tokens"}.get(name, "output tokens")
            raise self._invalid(f"field {name!r}: {value!r} {what}; must be at least 1")
        return value

    def _blocks(self, value: Any) -> tuple[int, ...]:
        try:
            return msgspec.convert(value, tuple[int, ...])
        except msgspec.ValidationError as error:
            raise self._invalid(f"not a request: hash_ids: {error}") from error

    def _object(self, value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._invalid(f"field {name!r} must be an object, not {value!r:.60}")
        return value

    def _refuse_rest(self, found: Mapping[str, Any], known: set[str]) -> None:
        """Raise if *found* has a field that would be left out in silence."""
        for name in found:
            if name in known or name in _LABELS:
                continue
            if name in _CHAT_FIELDS:
                raise self._invalid(
                    f"field {name!r} can only be sent with --endpoint-type chat or responses; "
                    + _REMEDY.format(name)
                )
            raise self._invalid(f"field {name!r} cannot be sent; {_REMEDY.format(name)}")

    def _invalid(self, text: str) -> WorkloadInvalid:
        return WorkloadInvalid(f"{self._where}: {text}")


def _pairs(
    spoken: Sequence[tuple[str, str]],
) -> Iterator[tuple[tuple[str, str], str | None]]:
    """Yield each thing said with the model's answer, if one follows it."""
    for number, said in enumerate(spoken):
        after = spoken[number + 1] if number + 1 < len(spoken) else ("", "")
        yield (
            said,
            after[1] if after[0] in ("gpt", "assistant", "chatgpt", "bing", "bard") else None,
        )


def _text_row(text: str, output_tokens: int) -> TraceRow:
    return TraceRow(0.0, _tokens(text), output_tokens, text=text)


def _tokens(text: str) -> int:
    """An estimate: without a tokenizer, and before the server has counted."""
    return max(1, len(text) // CHARS_PER_TOKEN)


def _prompt_tokens(value: Any) -> int:
    """Return about how many tokens a prompt has: text, token ids, messages, or lists of them."""
    if isinstance(value, str):
        return _tokens(value)
    if isinstance(value, dict):
        return sum(_prompt_tokens(v) for k, v in value.items() if k in ("content", "text"))
    if isinstance(value, list):
        return sum(_prompt_tokens(one) for one in value)
    return 1 if isinstance(value, int) else 0
