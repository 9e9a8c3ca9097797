"""What a caller asks for, checked, and what the engine is told of it.  Pure.

One number of the wrong kind, such as 3.0 where vLLM packs an integer, ends the input thread of its
core and with it every later request: nothing reaches the engine that was not looked at here.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from cog_predictor.engine.engine import Sampling
from cog_predictor.reporting.error_codes import MinTokensInvalid
from servekit.errors.tree import PromptTooLong, RequestInvalid
from servekit.wire.schemas import require_bounded_schema

# The range that cog-vllm drew from.
_MAX_DRAWN_SEED = 100_000

# Signed, of 64 and 32 bits: what vLLM packs seeds and counts into.
_MAX_SEED = 2**63 - 1
_MAX_COUNT = 2**31 - 1

# Lowest and highest of each number; `max_tokens` may be anything, since it is cut to the room.
_RANGES: Mapping[str, tuple[float, float]] = {
    "min_tokens": (0, _MAX_COUNT),
    "max_tokens": (1, math.inf),
    "temperature": (0.0, 2.0),
    "top_p": (0.001, 1.0),
    "top_k": (-1, _MAX_COUNT),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "seed": (0, _MAX_SEED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionInputs:
    """The inputs of one prediction, named as the caller names them.

    Attributes:
        stop_sequences: separated by commas; spaces count.
        seed: None for another one each time.
        json_schema: the answer fits it; empty for any text.
    """

    prompt: str
    system_prompt: str
    min_tokens: int
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    presence_penalty: float
    frequency_penalty: float
    stop_sequences: str
    prompt_template: str
    seed: int | None
    json_schema: str = ""


def checked(inputs: PredictionInputs) -> PredictionInputs:
    """Return *inputs* with every value of its type: 3.0 is the integer 3.

    Raises:
        RequestInvalid: a value is of another type, or out of its range; names the input.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(PredictionInputs)}
    values = {name: _value(name, kind, getattr(inputs, name)) for name, kind in kinds.items()}
    found = replace(inputs, **values)
    if found.json_schema:
        _check_schema(found.json_schema)
    return found


def _value(name: str, kind: object, value: Any) -> Any:
    if kind is str:
        return _text(name, value)
    if value is None and name == "seed":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestInvalid(f"{name} is {value!r:.80}; it is a number")
    if kind is not float and isinstance(value, float):
        if not value.is_integer():
            raise RequestInvalid(f"{name} is {value}; it is a whole number")
        value = int(value)
    lowest, highest = _RANGES[name]
    # Written so that NaN, which is neither below nor above, is refused.
    if not lowest <= value <= highest:
        raise RequestInvalid(f"{name} is {value:.6g}; it is between {lowest} and {highest}")
    return float(value) if kind is float else value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestInvalid(f"{name} is {value!r:.80}; it is text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestInvalid(
            f"{name} is not Unicode: it holds half a surrogate pair at {error.start}"
        ) from error
    return value


def _check_schema(schema: str) -> None:
    try:
        found = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise RequestInvalid(f"json_schema is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RequestInvalid(f"json_schema is {schema:.80}; it is a JSON object")
    require_bounded_schema(found)


def choose_sampling(
    request: PredictionInputs, *, prompt_tokens: int, max_model_len: int, rng: Random
) -> Sampling:
    """Return how to sample: *max_tokens* is cut to the room that the prompt leaves.

    Raises:
        PromptTooLong: the prompt leaves no room for an answer.
        MinTokensInvalid: more tokens are demanded than allowed, or than there is room for.
    """
    room = max_model_len - prompt_tokens
    if room < 1:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens and the model takes {max_model_len}, one of "
            "them for the answer; shorten the prompt"
        )
    max_tokens = min(request.max_tokens, room)
    if request.min_tokens > max_tokens:
        raise MinTokensInvalid(
            f"min_tokens is {request.min_tokens}, but at most {max_tokens} tokens can be "
            "generated; lower it, raise max_tokens, or shorten the prompt"
        )
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(request.top_k, 0),
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        stop=stop_texts(request.stop_sequences),
        seed=rng.randint(0, _MAX_DRAWN_SEED) if request.seed is None else request.seed,
        json_schema=request.json_schema,
    )


def stop_texts(stop_sequences: str) -> tuple[str, ...]:
    """Return the texts between the commas.  An empty one would stop before the first token."""
    return tuple(text for text in stop_sequences.split(",") if text)
