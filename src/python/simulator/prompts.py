"""A request's body -> what the engine must know of it.  Pure."""

import math
from dataclasses import dataclass
from hashlib import blake2b

from servekit.enginesim.prompts import text_segments, text_tokens, token_segments
from servekit.errors.tree import RequestError, RequestInvalid
from servekit.wire.openai import ChatRequest, CompletionRequest

# Where a request does not say `ignore_eos`, the model ends by itself: after an exponentially
# distributed number of tokens with this mean, drawn from the prompt and the seed.  Chat traffic
# has means from 120 (the H200 loads) to 350 (Mooncake's conversations).
MEAN_OUTPUT_TOKENS = 200


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its tokens, the hash of each full block, and a number drawn from its content."""

    tokens: int
    segments: tuple[int, ...]
    draw: float


def completion_prompts(request: CompletionRequest, block_size: int, seed: int) -> list[Prompt]:
    """Return the prompts of a completion request, in order.

    Raises:
        RequestError: there is none, or text and token ids are mixed.
    """
    prompt = request.prompt
    if isinstance(prompt, str):
        return [_text(prompt, block_size, seed)]
    if not prompt:
        raise RequestError("You must pass at least one prompt")
    if all(isinstance(item, int) for item in prompt):
        return [_tokens([item for item in prompt if isinstance(item, int)], block_size, seed)]
    prompts = []
    for item in prompt:
        if isinstance(item, str):
            prompts.append(_text(item, block_size, seed))
        elif isinstance(item, list):
            prompts.append(_tokens(item, block_size, seed))
        else:
            raise RequestInvalid("prompt mixes token ids with text or lists; send one kind")
    return prompts


def chat_prompt(request: ChatRequest, block_size: int, seed: int) -> Prompt:
    """Return the prompt of a chat: every message under its role, and the turn that is asked for.

    Raises:
        RequestInvalid: there is no message.
    """
    if not request.messages:
        raise RequestInvalid("messages is empty; a chat has at least one message")
    turns = "".join(
        f"<|{message.role}|>\n{_content(message.content)}<|end|>\n" for message in request.messages
    )
    return _text(turns + "<|assistant|>\n", block_size, seed)


def natural_length(prompt: Prompt) -> int:
    """Return the tokens after which the model would end by itself."""
    return max(1, math.ceil(-MEAN_OUTPUT_TOKENS * math.log(1.0 - prompt.draw)))


def _content(content: str | list[dict[str, object]] | None) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content or ""


def _text(text: str, block_size: int, seed: int) -> Prompt:
    raw = text.encode("utf-8", "surrogatepass")
    # An empty prompt still has the token that begins every prompt.
    return Prompt(max(1, text_tokens(raw)), text_segments(raw, block_size), _draw(raw, seed))


def _tokens(tokens: list[int], block_size: int, seed: int) -> Prompt:
    if not tokens:
        raise RequestInvalid("prompt has no token; send at least one")
    if min(tokens) < 0 or max(tokens) >= 2**63:
        raise RequestInvalid(f"token id {min(tokens)} to {max(tokens)}; ids count from 0")
    raw = repr(tokens[-64:]).encode()
    return Prompt(len(tokens), token_segments(tokens, block_size), _draw(raw, seed))


def _draw(raw: bytes, seed: int) -> float:
    """Return a number from 0.0 up to, not including, 1.0."""
    digest = blake2b(raw, digest_size=8, key=seed.to_bytes(8, "little", signed=True)).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53
