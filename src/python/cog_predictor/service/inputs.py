"""What a caller asks for, and what the engine is told of it.  Pure."""

from dataclasses import dataclass
from random import Random

from cog_predictor.engine.engine import Sampling
from cog_predictor.reporting.error_codes import MinTokensInvalid
from servekit.errors.tree import PromptTooLong

# The range that cog-vllm drew from.
_MAX_DRAWN_SEED = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionInputs:
    """The inputs of one prediction, named as the caller names them.

    Attributes:
        stop_sequences: separated by commas; spaces count.
        seed: None for another one each time.
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
    )


def stop_texts(stop_sequences: str) -> tuple[str, ...]:
    """Return the texts between the commas.  An empty one would stop before the first token."""
    return tuple(text for text in stop_sequences.split(",") if text)
