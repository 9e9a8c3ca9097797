"""A request's prompt -> what the engine must know of it.  Pure."""

import math
from dataclasses import dataclass
from hashlib import blake2b

from servekit.enginesim.prompts import text_segments, text_tokens, token_segments
from servekit.enginesim.step_profile import GOLDEN
from servekit.errors.tree import RequestError
from simulator.parameters import FieldInvalid, ParameterInvalid

# Where a request does not say `ignore_eos`, the model ends by itself: after an exponentially
# distributed number of tokens with this mean, drawn from the prompt and the seed.  Chat traffic
# has means from 120 (the H200 loads) to 350 (Mooncake's conversations).
MEAN_OUTPUT_TOKENS = 200

# Beyond every model's vocabulary; the simulator has none of its own.
LARGEST_VOCABULARY = 2**20

_MEDIA = frozenset(
    {
        *("image_url", "image_embeds", "input_image", "image_pil", "audio_url", "input_audio"),
        *("video_url", "file"),
    }
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its tokens, the hash of each full block, and a number drawn from its content.

    Attributes:
        text: None where it came as token ids.
    """

    tokens: int
    segments: tuple[int, ...]
    draw: float
    text: str | None = None


def completion_prompts(prompt: object, block_size: int, seed: int) -> list[Prompt]:
    """Return the prompts in the field `prompt` of a completion request, in order.

    Raises:
        RequestError: there is none, or it is neither text nor token ids, or both.
    """
    if prompt is None or prompt == "":
        raise ParameterInvalid(
            "Either prompt or prompt_embeds must be provided and non-empty.", "prompt"
        )
    if isinstance(prompt, str):
        return [_text(prompt, block_size, seed)]
    if not isinstance(prompt, list):
        raise FieldInvalid("prompt", "must be text, token ids, or a list of either")
    if not prompt:
        raise RequestError("You must pass at least one prompt")
    if _are_tokens(prompt):
        return [_tokens(prompt, block_size, seed)]
    if all(isinstance(item, str) for item in prompt):
        return [_text(item, block_size, seed) for item in prompt]
    if all(isinstance(item, list) and _are_tokens(item) for item in prompt):
        return [_tokens(item, block_size, seed) for item in prompt]
    raise FieldInvalid("prompt", "mixes kinds, or has something that is no token id; send one kind")


def chat_prompt(model: str, messages: object, block_size: int, seed: int) -> Prompt:
    """Return the prompt of a chat: every message under its role, and the turn that is asked for.

    Raises:
        RequestError: there is no message, or one that vLLM refuses for a model of text.
    """
    if messages is None:
        raise RequestError("messages is null; send at least one message")
    if not isinstance(messages, list):
        raise FieldInvalid("messages", "must be a list of messages")
    if not messages:
        raise RequestError(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    turns = [_turn(model, place, message) for place, message in enumerate(messages)]
    return _text("".join(turns) + "<|assistant|>\n", block_size, seed)


def natural_length(prompt: Prompt, number: int = 0) -> int:
    """Return the tokens after which the model would end answer *number* to *prompt* by itself."""
    draw = (prompt.draw + number * GOLDEN) % 1.0
    return max(1, math.ceil(-MEAN_OUTPUT_TOKENS * math.log(1.0 - draw)))


def _turn(model: str, place: int, message: object) -> str:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise FieldInvalid(f"messages.{place}", "must be an object with a role")
    role, content = message["role"], message.get("content", "")
    if content is None and role == "assistant":
        content = ""
    if isinstance(content, list):
        content = "".join(_part(model, part) for part in content)
    if not isinstance(content, str):
        raise FieldInvalid(f"messages.{place}.content", "must be text or a list of parts")
    return f"<|{role}|>\n{content}<|end|>\n"


def _part(model: str, part: object) -> str:
    kind = str(part.get("type")) if isinstance(part, dict) else None
    if kind in _MEDIA:
        raise RequestError(f"{model} is not a multimodal model")
    text = part.get("text") if isinstance(part, dict) else None
    if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
        raise RequestError(f"a part of a message has type {kind!r}; send type text, with a text")
    return text


def _are_tokens(items: list[object]) -> bool:
    return all(isinstance(item, int) for item in items)


def _text(text: str, block_size: int, seed: int) -> Prompt:
    raw = text.encode("utf-8", "surrogatepass")
    # An empty prompt still has the token that begins every prompt.
    segments = text_segments(raw, block_size)
    return Prompt(max(1, text_tokens(raw)), segments, _draw(raw, seed), text)


def _tokens(tokens: list[int], block_size: int, seed: int) -> Prompt:
    if not tokens:
        raise RequestError("The decoder prompt cannot be empty")
    if min(tokens) < 0:
        raise FieldInvalid("prompt", f"has token id {min(tokens)}; ids start at 0")
    if max(tokens) >= LARGEST_VOCABULARY:
        raise RequestError(f"Token id {max(tokens)} is out of vocabulary")
    raw = repr(tokens[-64:]).encode()
    return Prompt(len(tokens), token_segments(tokens, block_size), _draw(raw, seed))


def _draw(raw: bytes, seed: int) -> float:
    """Return a number from 0.0 up to, not including, 1.0."""
    digest = blake2b(raw, digest_size=8, key=seed.to_bytes(8, "little", signed=True)).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53
