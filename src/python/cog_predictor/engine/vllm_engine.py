"""The real engine, vLLM, inside this process.

vLLM is never a requirement of ours: it comes with the image, and is imported when it is started.
Names and arguments follow vLLM 0.32 and 0.33.
"""

import dataclasses
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from cog_predictor.engine.engine import EngineFactory, Sampling, TextDelta
from cog_predictor.reporting.error_codes import EngineArgUnknown
from servekit.errors.tree import EngineExited, EngineNotReady, RequestInvalid


def vllm_kind() -> EngineFactory:
    """Return vLLM as it is installed.  Imports it, which takes seconds."""
    arg_utils = import_module("vllm.engine.arg_utils")
    torch = import_module("torch")
    fields = dataclasses.fields(arg_utils.AsyncEngineArgs)
    return EngineFactory(
        known_args=frozenset(field.name for field in fields if not field.name.startswith("_")),
        gpu_count=torch.cuda.device_count(),
        start=start_vllm,
    )


async def start_vllm(model: Path, args: Mapping[str, object]) -> "VllmGenerator":
    """Load the model in a folder.  Blocks the event loop while it loads: nobody else runs yet.

    Raises:
        EngineArgUnknown: vLLM takes no such argument.
        EngineNotReady: it did not start; the message is vLLM's.
    """
    arg_utils = import_module("vllm.engine.arg_utils")
    async_llm = import_module("vllm.v1.engine.async_llm")
    try:
        engine_args = arg_utils.AsyncEngineArgs(model=str(model), **args)
    except TypeError as error:
        raise EngineArgUnknown(f"vLLM refuses the engine_args: {error}") from error
    try:
        llm = async_llm.AsyncLLM.from_engine_args(engine_args)
    # Whatever goes wrong in there, from a driver to a shape, is told as it is.
    except Exception as error:
        raise EngineNotReady(
            f"vLLM did not start: {_one_line(error)}; the log above says more"
        ) from error
    return VllmGenerator(llm)


class Tokenizer(Protocol):
    """As transformers has them."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]:
        """Return token ids; with the special tokens, the sequence is begun as the model knows."""


def encode_once_begun(tokenizer: Tokenizer, text: str, *, begin: str, complete: bool) -> list[int]:
    """Return the token ids of *text*, which *begin* begins at most once.

    A text that is *complete*, from a chat template, or has *begin* in front, is left as it is: a
    sequence that is begun twice is none that the model was trained on.
    """
    # LLAMA_3_INSTRUCT has Llama 2's before Llama 3's, as it had in cog-vllm.
    begun = complete or bool(begin and text.startswith((begin, f"<s>{begin}")))
    return list(tokenizer.encode(text, add_special_tokens=not begun))


class VllmGenerator:
    """One AsyncLLM."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._tokenizer = llm.get_tokenizer()
        self._sampling_params = import_module("vllm.sampling_params")
        self._dead = import_module("vllm.v1.engine.exceptions").EngineDeadError

    @property
    def max_model_len(self) -> int:
        return int(self._llm.model_config.max_model_len)

    @property
    def chat_template(self) -> str | None:
        template = getattr(self._tokenizer, "chat_template", None)
        # Some tokenizers have several, by name.
        return template.get("default") if isinstance(template, dict) else template

    @property
    def special_tokens(self) -> Mapping[str, str]:
        tokens = getattr(self._tokenizer, "special_tokens_map", {})
        return {name: str(token) for name, token in tokens.items() if isinstance(token, str)}

    def tokenize(self, text: str, *, complete: bool) -> list[int]:
        begin = self.special_tokens.get("bos_token", "")
        return encode_once_begun(self._tokenizer, text, begin=begin, complete=complete)

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TextDelta, None]:
        prompt = {"prompt_token_ids": list(prompt_token_ids)}
        with self._translated():
            async for output in self._llm.generate(prompt, self._params(sampling), request_id):
                (completion,) = output.outputs
                yield TextDelta(completion.text, len(completion.token_ids))

    async def abort(self, request_id: str) -> None:
        with self._translated():
            await self._llm.abort(request_id)

    async def check(self) -> None:
        with self._translated():
            await self._llm.check_health()

    def _params(self, sampling: Sampling) -> Any:
        fields = {field.name: getattr(sampling, field.name) for field in _SAMPLING_FIELDS}
        return self._sampling_params.SamplingParams(
            **{**fields, "stop": list(sampling.stop)},
            n=1,
            output_kind=self._sampling_params.RequestOutputKind.DELTA,
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._dead as error:
            raise EngineExited(f"the engine is gone: {_one_line(error)}") from error
        # VLLMValidationError is a ValueError.
        except ValueError as error:
            raise RequestInvalid(f"vLLM refuses the request: {_one_line(error)}") from error


_SAMPLING_FIELDS = dataclasses.fields(Sampling)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
