"""What the predictor needs of an engine, which it is given."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from servekit.launch.engine_work import EngineWork


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and when to stop.

    Attributes:
        top_k: tokens to choose among; 0 for all.
        stop: texts that end the answer; they are not part of it.
        json_schema: the answer is JSON that fits this schema; empty for any text.
    """

    max_tokens: int
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    presence_penalty: float
    frequency_penalty: float
    stop: tuple[str, ...]
    seed: int
    json_schema: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What was generated since the piece before.

    Attributes:
        tokens: how many tokens it is; its text may be empty.
    """

    text: str
    tokens: int


class GenerationEngine(Protocol):
    """A model that was loaded.

    Every method may raise EngineExited: the engine is gone, and does not come back.
    """

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer, together."""

    @property
    def own_length(self) -> int:
        """What the model itself could take; more than `max_model_len` where memory is short."""

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's own template, Jinja."""

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """The tokenizer's special tokens, such as `bos_token`."""

    def tokenize(self, text: str, *, complete: bool) -> list[int]:
        """Return the token ids of *text*; unless it is *complete*, begin the sequence once."""

    def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TextDelta, None]:
        """Generate until the model, *sampling* or `abort` says stop.

        Raises:
            RequestInvalid: the engine refuses the request.
        """

    async def abort(self, request_id: str) -> None:
        """Stop generating for a request; unknown ones are passed over."""

    async def check(self) -> None:
        """Raise EngineExited if the engine is gone."""

    @property
    def work(self) -> EngineWork:
        """What it owes, by whichever door it was asked."""

    async def counters(self) -> object | None:
        """Return what changes with each step that it makes."""

    async def computes(self) -> bool:
        """Ask for one token; return whether the engine has answered within a few seconds."""

    def condemn(self, why: str) -> None:
        """Take the engine for dead: whoever waits for it is told *why*, and so is who comes."""


@dataclass(frozen=True, slots=True)
class EngineFactory:
    """An engine that can be started.

    Attributes:
        known_args: the names that engine_args may have.
        gpu_count: GPUs on this machine.
        start: loads the model in a folder, with arguments; raises EngineNotReady.
    """

    known_args: frozenset[str]
    gpu_count: int
    start: Callable[[Path, Mapping[str, object]], Awaitable[GenerationEngine]]
