"""The real engine, vLLM, inside this process.

vLLM is never a requirement of ours: it comes with the image, and is imported when it is started.
Names and arguments follow vLLM 0.32 and 0.33.
"""

import asyncio
import dataclasses
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from cog_predictor.engine.engine import EngineFactory, Sampling, TextDelta
from cog_predictor.engine.start_failure import explained, read_error_log, root_cause
from cog_predictor.engine.watched_llm import watched
from cog_predictor.engine.weight_files import check_safetensors
from cog_predictor.reporting.error_codes import EngineArgUnknown, EngineFailed
from servekit.errors.tree import EngineExited, EngineNotReady, RequestInvalid, ServeError
from servekit.launch.engine_work import EngineWork
from servekit.launch.memory_limit import describe_memory_kill, read_memory_limit
from servekit.launch.watchdog import core_counters


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


async def start_vllm(
    model: Path, args: Mapping[str, object], error_log: Path | None = None
) -> "VllmGenerator":
    """Load the model in a folder.  Blocks the event loop while it loads: nobody else runs yet.

    Args:
        error_log: what vLLM's own processes write their errors to; see `keep_error_log`.

    Raises:
        EngineArgUnknown: vLLM takes no such argument.
        EngineNotReady: it did not start; the message names the cause and the remedy.
    """
    check_safetensors(model)
    arg_utils = import_module("vllm.engine.arg_utils")
    async_llm = import_module("vllm.v1.engine.async_llm")
    try:
        engine_args = arg_utils.AsyncEngineArgs(model=model_path(model), **args)
    except TypeError as error:
        raise EngineArgUnknown(f"vLLM refuses the engine_args: {error}") from error
    try:
        usage = import_module("vllm.usage.usage_lib").UsageContext.ENGINE_CONTEXT
        config = engine_args.create_engine_config(usage)
        # Before vLLM has looked at the memory this is the model's own; it may only get less.
        own_length = int(config.model_config.max_model_len)
        if config.model_config.runner_type != "generate":
            raise EngineNotReady(
                f"the model is no text generator ({config.model_config.runner_type}); name one "
                "that generates text in COG_WEIGHTS, or serve this one with modal_embedding"
            )
        work = EngineWork()
        llm = watched(async_llm.AsyncLLM, work, time.monotonic).from_vllm_config(
            config,
            disable_log_stats=engine_args.disable_log_stats,
            enable_log_requests=engine_args.enable_log_requests,
        )
    except EngineNotReady:
        raise
    # Whatever goes wrong in there, from a driver to a shape.
    except Exception as error:
        cause = explained(error, read_error_log(error_log))
        raise EngineNotReady(f"vLLM did not start: {cause}") from error
    return VllmGenerator(llm, own_length, work, error_log)


def model_path(folder: Path) -> str:
    """Return what vLLM is to load: the folder, or the one GGUF file that it holds."""
    files = sorted(folder.glob("*.gguf"))
    if (folder / "config.json").exists() or not files:
        return str(folder)
    if len(files) > 1:
        raise EngineNotReady(
            f"the weights hold {len(files)} GGUF files ({files[0].name} and others); leave one"
        )
    return str(files[0])


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

    def __init__(self, llm: Any, own_length: int, work: EngineWork, error_log: Path | None) -> None:
        self._llm = llm
        self._own_length = own_length
        self._work = work
        self._error_log = error_log
        self._memory = read_memory_limit()
        self._why_condemned = ""
        self._tokenizer = llm.get_tokenizer()
        self._sampling_params = import_module("vllm.sampling_params")
        self._dead = import_module("vllm.v1.engine.exceptions").EngineDeadError

    @property
    def max_model_len(self) -> int:
        return int(self._llm.model_config.max_model_len)

    @property
    def llm(self) -> Any:
        """The AsyncLLM itself, for vLLM's own routes."""
        return self._llm

    @property
    def own_length(self) -> int:
        return self._own_length

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

    @property
    def work(self) -> EngineWork:
        return self._work

    async def counters(self) -> object | None:
        # What vLLM's /metrics would say; without statistics these stand still, and the processor
        # time of its core tells.
        return core_counters(import_module("prometheus_client").generate_latest())

    async def computes(self) -> bool:
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT_S):
                async for _ in self.generate([0], _ONE_TOKEN, uuid.uuid4().hex):
                    return True
        except (TimeoutError, EngineExited):
            return False
        except ServeError:
            return True
        return True

    def condemn(self, why: str) -> None:
        self._why_condemned = why
        self._llm.engine_core.resources.engine_dead = True
        self._llm.output_processor.propagate_error(self._dead())

    def _cause(self, error: BaseException) -> str:
        """Return why the engine is gone, as exactly as can be found out."""
        if self._why_condemned:
            return self._why_condemned
        killed = describe_memory_kill(self._memory, read_memory_limit())
        ended = _how_ended(self._llm.engine_core.resources.engine_manager)
        raised = root_cause(read_error_log(self._error_log))
        found = [text for text in (killed, ended or raised) if text]
        return "; ".join(found) or _one_line(error)

    def _params(self, sampling: Sampling) -> Any:
        fields = {field.name: getattr(sampling, field.name) for field in _SAMPLING_FIELDS}
        structured = self._sampling_params.StructuredOutputsParams
        schema = fields.pop("json_schema")
        return self._sampling_params.SamplingParams(
            **{**fields, "stop": list(sampling.stop)},
            n=1,
            structured_outputs=structured(json=schema) if schema else None,
            output_kind=self._sampling_params.RequestOutputKind.DELTA,
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._dead as error:
            raise EngineExited(f"the engine is gone: {self._cause(error)}") from error
        # VLLMValidationError is a ValueError.
        except ValueError as error:
            raise RequestInvalid(f"vLLM refuses the request: {_one_line(error)}") from error
        # Nothing of vLLM's leaves without a code.
        except Exception as error:
            if "grammar" in str(error).lower():
                raise RequestInvalid(f"json_schema cannot be used: {_one_line(error)}") from error
            raise EngineFailed(f"vLLM failed: {_one_line(error)}; try again") from error


def _how_ended(manager: Any) -> str | None:
    """Return which signal has killed a process of vLLM's; None if none has."""
    for process in getattr(manager, "processes", ()):
        if process.exitcode is not None and process.exitcode < 0:
            return f"{_CORE} was killed by signal {-process.exitcode}"
    return None


_CORE = "EngineCore"

# A look must not hang on an engine that takes requests and does not answer.
_LOOK_TIMEOUT_S = 5.0

_ONE_TOKEN = Sampling(
    max_tokens=1,
    min_tokens=0,
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    stop=(),
    seed=0,
)

_SAMPLING_FIELDS = dataclasses.fields(Sampling)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
