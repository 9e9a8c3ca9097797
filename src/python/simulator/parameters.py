"""What a request asks for beside its prompt, read and refused as vLLM does.  Pure.

vLLM reads JSON through pydantic, which takes "5" and 5.0 for 5; then it checks ranges.  The words
of a range error are vLLM's, those of a type error are ours.  A parameter that vLLM takes and that
would change the answer in a way that is not simulated is refused by name.
`tests/golden/vllm/requests_v0.32.0.json` has what vLLM answered to each.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servekit.errors.tree import RequestError, RequestInvalid

# vLLM's limits that have a variable of their own.
_MOST_SEQUENCES = 16_384
_MOST_STOP_STRINGS = 16
_MOST_LOGPROBS = 20
_INT64 = 2**63

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})

Raw = Mapping[str, Any]


class ParameterInvalid(RequestError):
    """A parameter is out of range; *parameter* is the field that vLLM names, if it does."""

    def __init__(
        self, message: str, parameter: str | None = None, *, shown: bool = True, **named: object
    ) -> None:
        self.parameter = parameter or next(iter(named), None)
        suffix = f" (parameter={parameter})" if parameter and shown else ""
        for name, value in named.items():
            suffix = f" (parameter={name}, value={value})"
        super().__init__(message + suffix)


class FieldInvalid(RequestInvalid):
    """A field has the wrong type; *field* is where, as vLLM writes it: `body.n`."""

    def __init__(self, field: str, wanted: str) -> None:
        self.field = f"body.{field}"
        super().__init__(f"{self.field}: {wanted}")


class NotSimulated(RequestError):
    """vLLM takes this parameter, and the simulator does not."""

    def __init__(self, parameter: str) -> None:
        self.parameter = parameter
        super().__init__(f"{parameter} is not simulated; leave it out")


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a request asks for.

    Attributes:
        max_tokens: None where it is what the context leaves.
        n: answers to each prompt.
        stop: strings that end an answer.
        keep_stop: whether the answer ends with the string that ended it.
    """

    model: str | None
    max_tokens: int | None
    min_tokens: int
    n: int
    stop: tuple[str, ...]
    keep_stop: bool
    ignore_eos: bool
    echo: bool
    stream: bool
    include_usage: bool


def read_parameters(raw: Raw, *, chat: bool) -> Parameters:
    """Return what *raw*, the body of a request, asks for.

    Raises:
        FieldInvalid: a field has the wrong type.
        ParameterInvalid: a value is out of range, or contradicts another.
        NotSimulated: it asks for something that is not simulated.
    """
    _check_types(raw)
    stream = _flag(raw, "stream")
    usage = _stream_options(raw, stream)
    _check_response_format(raw)
    _check_structured_outputs(raw, chat=chat)
    (_check_chat if chat else _check_completion)(raw, stream)
    model = _text(raw, "model")
    asked = _max_tokens(raw, chat=chat)
    parameters = Parameters(
        model=model,
        max_tokens=asked,
        min_tokens=_whole(raw, "min_tokens", 0) or 0,
        n=_sequences(raw, chat=chat),
        stop=_stop(raw),
        keep_stop=_flag(raw, "include_stop_str_in_output"),
        ignore_eos=_flag(raw, "ignore_eos"),
        echo=not chat and _flag(raw, "echo"),
        stream=stream,
        include_usage=usage,
    )
    _check_ranges(raw, parameters)
    _check_tokens(raw)
    return parameters


# Types, as pydantic takes them.


def _number(raw: Raw, name: str) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, int | float | str):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise FieldInvalid(name, "must be a number")


def _whole(raw: Raw, name: str, default: int | None = None) -> int | None:
    value = raw.get(name, default)
    if value is None:
        return None
    try:
        whole = int(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        whole = None
    if whole is None or (isinstance(value, float) and whole != value):
        raise FieldInvalid(name, "must be a whole number")
    return whole


def _flag(raw: Raw, name: str) -> bool:
    value = raw.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise FieldInvalid(name, "must be true or false")


def _text(raw: Raw, name: str) -> str | None:
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise FieldInvalid(name, "must be a string")
    return value


def _list_of(raw: Raw, name: str, kind: type, wanted: str) -> list[Any]:
    value = raw.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise FieldInvalid(name, wanted)
    return value


def _bounded(raw: Raw, name: str, least: int, most: int) -> int | None:
    value = _whole(raw, name)
    if value is not None and not least <= value <= most:
        raise FieldInvalid(name, f"must be from {least} to {most}")
    return value


def _check_types(raw: Raw) -> None:
    """Look at the fields whose value changes nothing here, or only whether it is refused."""
    _text(raw, "user")
    _bounded(raw, "seed", -_INT64, _INT64 - 1)
    _bounded(raw, "priority", -_INT64, _INT64 - 1)
    for name in ("skip_special_tokens", "spaces_between_special_tokens", "add_special_tokens"):
        _flag(raw, name)
    _list_of(raw, "bad_words", str, "must be a list of strings")
    for name in ("stop_token_ids", "allowed_token_ids"):
        _list_of(raw, name, int, "must be a list of token ids")
    if not isinstance(raw.get("logit_bias") or {}, dict):
        raise FieldInvalid("logit_bias", "must be an object of token ids and numbers")


# Single parameters.


def _stream_options(raw: Raw, stream: bool) -> bool:
    """Return whether the last event is to have the usage."""
    options = raw.get("stream_options")
    if options and not stream:
        raise ParameterInvalid(
            "Stream options can only be defined when `stream=True`.", "stream_options"
        )
    if options is None:
        return False
    if not isinstance(options, dict):
        raise FieldInvalid("stream_options", "must be an object")
    if _flag(options, "continuous_usage_stats"):
        raise NotSimulated("stream_options.continuous_usage_stats")
    return _flag(options, "include_usage")


def _max_tokens(raw: Raw, *, chat: bool) -> int | None:
    if not chat:
        value = _whole(raw, "max_tokens")
        return 16 if value is None else value
    newer = _whole(raw, "max_completion_tokens")
    older = _whole(raw, "max_tokens")
    return older if newer is None else newer


def _sequences(raw: Raw, *, chat: bool) -> int:
    if not chat and "n" in raw and raw["n"] is None:
        raise FieldInvalid("n", "must be a whole number")
    n = _whole(raw, "n", 1)
    n = 1 if n is None else n
    if n < 1:
        raise ParameterInvalid(f"n must be at least 1, got {n}.")
    if n > _MOST_SEQUENCES:
        raise ParameterInvalid(
            f"n must be at most {_MOST_SEQUENCES}, got {n}. To increase this limit, set the "
            "VLLM_MAX_N_SEQUENCES environment variable."
        )
    return n


def _stop(raw: Raw) -> tuple[str, ...]:
    value = raw.get("stop")
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise FieldInvalid("stop", "must be a string or a list of strings")
    if len(strings) > _MOST_STOP_STRINGS:
        raise FieldInvalid("stop", f"must have at most {_MOST_STOP_STRINGS} strings")
    if not all(strings):
        raise ParameterInvalid("stop cannot contain an empty string.")
    return tuple(strings)


def _check_ranges(raw: Raw, parameters: Parameters) -> None:
    """SamplingParams._verify_args of vLLM 0.32, in its order and words."""
    for name in ("presence_penalty", "frequency_penalty"):
        value = _number(raw, name)
        if value is not None and not -2 <= value <= 2:
            raise ParameterInvalid(f"{name} must be in [-2, 2], got {value}.")
    repetition = _number(raw, "repetition_penalty")
    if repetition is not None and not math.isfinite(repetition):
        raise ParameterInvalid(f"repetition_penalty must be a finite number, got {repetition}.")
    if repetition is not None and repetition <= 0:
        raise ParameterInvalid(f"repetition_penalty must be greater than zero, got {repetition}.")
    temperature = _number(raw, "temperature")
    if temperature is not None:
        _check_temperature(temperature, parameters.n)
    top_p = _number(raw, "top_p")
    if top_p is not None and not 0 < top_p <= 1:
        raise ParameterInvalid(f"top_p must be in (0, 1], got {top_p}.", top_p=top_p)
    top_k = _whole(raw, "top_k")
    if top_k is not None and top_k < -1:
        raise ParameterInvalid(f"top_k must be 0 (disable), or at least 1, got {top_k}.")
    min_p = _number(raw, "min_p")
    if min_p is not None and not 0 <= min_p <= 1:
        raise ParameterInvalid(f"min_p must be in [0, 1], got {min_p}.")
    if parameters.min_tokens < 0:
        raise ParameterInvalid(
            f"min_tokens must be greater than or equal to 0, got {parameters.min_tokens}."
        )
    most = parameters.max_tokens
    if most is not None and 1 <= most < parameters.min_tokens:
        raise ParameterInvalid(
            f"min_tokens must be less than or equal to max_tokens={most}, "
            f"got {parameters.min_tokens}."
        )


def _check_temperature(temperature: float, n: int) -> None:
    if not math.isfinite(temperature):
        raise ParameterInvalid(
            f"temperature must be a finite number, got {temperature}.", temperature=temperature
        )
    if temperature < 0:
        raise ParameterInvalid(
            f"temperature must be non-negative, got {temperature}.", temperature=temperature
        )
    if temperature > 2:
        raise ParameterInvalid(
            f"temperature must be in [0, 2], got {temperature}.", temperature=temperature
        )
    if temperature == 0 and n > 1:
        raise ParameterInvalid(f"n must be 1 when using greedy sampling, got {n}.")


def _check_tokens(raw: Raw) -> None:
    """What is said of single tokens: there is no vocabulary, so that it changes no answer."""
    wrong = [key for key in raw.get("logit_bias") or {} if not key.lstrip("-").isdecimal()]
    if wrong:
        raise ParameterInvalid(
            f"logit_bias contains key(s) that cannot be converted to integer token IDs: {wrong}",
            logit_bias=wrong,
        )
    if raw.get("allowed_token_ids") == []:
        raise ParameterInvalid("allowed_token_ids is not None and empty!", allowed_token_ids=[])
    cut = _whole(raw, "truncate_prompt_tokens")
    if cut is not None and cut < -1:
        raise FieldInvalid("truncate_prompt_tokens", "must be -1 or more")
    if cut is not None and cut >= 0:
        raise NotSimulated("truncate_prompt_tokens")
    for name in ("return_token_ids", "return_tokens_as_token_ids", "use_beam_search"):
        if _flag(raw, name):
            raise NotSimulated(name)


def _check_response_format(raw: Raw) -> None:
    """Guided decoding is not simulated, and refused where vLLM refuses it."""
    asked = raw.get("response_format")
    if asked is not None:
        kind = asked.get("type") if isinstance(asked, dict) else None
        if kind == "json_schema" and asked.get("json_schema") is None:
            raise ParameterInvalid(
                "When response_format type is 'json_schema', the 'json_schema' field must be "
                "provided.",
                "response_format",
            )
        if kind not in ("text", "json_object", "json_schema", "structural_tag"):
            field = "response_format.type" if isinstance(asked, dict) else "response_format"
            raise FieldInvalid(field, "must be text, json_object or json_schema")
        if kind != "text":
            raise NotSimulated(f"response_format {kind}")


def _check_structured_outputs(raw: Raw, *, chat: bool) -> None:
    outputs = raw.get("structured_outputs")
    if outputs is None:
        return
    if not isinstance(outputs, dict):
        raise FieldInvalid("structured_outputs", "must be an object")
    if sum(outputs.get(kind) is not None for kind in ("json", "regex", "choice")) > 1:
        raise ParameterInvalid(
            "You can only use one kind of constraints for structured outputs ('json', 'regex' or "
            "'choice').",
            None if chat else "structured_outputs",
        )
    if not any(value is not None for value in outputs.values()):
        raise ParameterInvalid(
            "You must use one kind of structured outputs constraint but none are specified: {}"
        )
    raise NotSimulated("structured_outputs")


def _check_completion(raw: Raw, stream: bool) -> None:
    """What only /v1/completions has.  `best_of` is no longer known to vLLM and ignored."""
    if raw.get("prompt_embeds") is not None:
        raise ParameterInvalid(
            "You must set `--enable-prompt-embeds` to input `prompt_embeds`.", "prompt_embeds"
        )
    if _text(raw, "suffix") is not None:
        raise ParameterInvalid(
            "suffix is only supported for models with FIM completion rendering",
            "suffix",
            shown=False,
        )
    _check_prompt_logprobs(raw, stream)
    asked = raw.get("logprobs")
    if asked is None:
        return
    if not _is_count(asked):
        raise ParameterInvalid("`logprobs` must be an integer.", logprobs=asked)
    _check_logprobs(int(asked))


def _check_chat(raw: Raw, stream: bool) -> None:
    """What only /v1/chat/completions has."""
    _check_prompt_logprobs(raw, stream)
    _check_chat_logprobs(raw)
    _check_tools(raw)
    if _flag(raw, "continue_final_message") and _flag(raw, "add_generation_prompt"):
        raise ParameterInvalid(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )
    if raw.get("chat_template") is not None:
        raise ParameterInvalid(
            "Chat template is passed with request, but --trust-request-chat-template is not set. "
            "Refused request with untrusted chat template."
        )
    efforts = (None, "none", "minimal", "low", "medium", "high", "xhigh", "max")
    if raw.get("reasoning_effort") not in efforts:
        raise FieldInvalid("reasoning_effort", f"must be one of {', '.join(map(str, efforts[1:]))}")


def _check_chat_logprobs(raw: Raw) -> None:
    wanted = _flag(raw, "logprobs")
    top = raw.get("top_logprobs")
    if top is not None and not _is_count(top):
        raise ParameterInvalid("`top_logprobs` must be an integer.", top_logprobs=top)
    if top and not wanted:
        raise ParameterInvalid(
            "when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs"
        )
    if wanted:
        _check_logprobs(int(top or 0))


def _is_count(value: object) -> bool:
    """Whether *value* is a number that has an end; JSON as Python reads it has NaN and infinity."""
    return isinstance(value, int | float) and math.isfinite(value)


def _check_logprobs(count: int) -> None:
    if not 0 <= count <= _MOST_LOGPROBS:
        raise ParameterInvalid(
            f"Requested sample logprobs of {count}, which is greater than max allowed: "
            f"{_MOST_LOGPROBS}",
            logprobs=count,
        )
    raise NotSimulated("logprobs")


def _check_prompt_logprobs(raw: Raw, stream: bool) -> None:
    asked = raw.get("prompt_logprobs")
    if asked is None:
        return
    if not _is_count(asked):
        raise ParameterInvalid("`prompt_logprobs` must be an integer.", prompt_logprobs=asked)
    if stream and (asked > 0 or asked == -1):
        raise ParameterInvalid(
            "`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs"
        )
    if asked < 0 and asked != -1:
        raise ParameterInvalid(
            "`prompt_logprobs` must be a positive value or -1.", prompt_logprobs=asked
        )
    raise NotSimulated("prompt_logprobs")


def _check_tools(raw: Raw) -> None:
    """As an engine without --enable-auto-tool-choice and --tool-call-parser."""
    tools, choice = raw.get("tools"), raw.get("tool_choice", "auto" if raw.get("tools") else "none")
    if tools == []:
        raise ParameterInvalid(
            "`tools` must not be an empty array. Either provide at least one tool or omit the "
            "field entirely.",
            "tools",
        )
    names = _tool_names(tools)
    if choice in ("none", None):
        return
    if tools is None:
        raise ParameterInvalid("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if name not in names:
            raise ParameterInvalid(
                "The tool specified in `tool_choice` does not match any of the specified `tools`",
                "tool_choice",
            )
        shown = f'tool_choice=function "{name}" requires'
    elif choice == "auto":
        shown = '"auto" tool choice requires --enable-auto-tool-choice and'
    elif choice == "required":
        shown = 'tool_choice="required" requires'
    else:
        raise ParameterInvalid(
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or '
            '"required" are supported.',
            "tool_choice",
        )
    raise ParameterInvalid(f"{shown} --tool-call-parser to be set")


def _tool_names(tools: object) -> list[str]:
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise FieldInvalid("tools", "must be a list of tools")
    names = []
    for place, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise FieldInvalid(f"tools.{place}.function", "must be an object with a name")
        names.append(function["name"])
    return names
