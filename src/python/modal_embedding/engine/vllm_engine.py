"""vLLM in this process, through its Python API.  Imports vLLM only when it is made."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modal_embedding.engine.settings import EmbeddingSettings
from modal_embedding.messages.protocol import Embedded, TextTooLong
from servekit.errors.tree import EngineExited


class VllmPooling:
    """`vllm.LLM` as a pooling engine."""

    def __init__(self, llm: Any, max_model_len: int, *, can_sleep: bool) -> None:
        self._llm = llm
        self._max_model_len = max_model_len
        self._can_sleep = can_sleep

    def embed(self, prompts: Sequence[str]) -> Embedded:
        token_ids: list[list[int]] = self._llm.get_tokenizer()(list(prompts))["input_ids"]
        for index, ids in enumerate(token_ids):
            if len(ids) > self._max_model_len:
                raise TextTooLong(index, len(ids), self._max_model_len)
        try:
            # As tokens: each text is read once, and its length is known before the engine is busy.
            outputs = self._llm.embed(
                [{"prompt_token_ids": ids} for ids in token_ids], use_tqdm=False
            )
        except Exception as error:
            if type(error).__name__ == "EngineDeadError":
                raise EngineExited(f"the engine has ended: {error}") from error
            raise
        vectors = np.asarray([output.outputs.embedding for output in outputs], dtype=np.float32)
        return Embedded(vectors, sum(map(len, token_ids)))

    def sleep(self) -> None:
        if self._can_sleep:
            self._llm.sleep(level=1)

    def wake(self) -> None:
        if self._can_sleep:
            self._llm.wake_up()

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()


def load_vllm_engine(settings: EmbeddingSettings, model: str, **more: object) -> VllmPooling:
    """Return an engine that holds *model*, a folder.  *more* goes to `vllm.LLM` as it is."""
    from vllm import LLM  # type: ignore[import-not-found]  # pants: no-infer-dep

    llm = LLM(
        model=model,
        served_model_name=settings.public_model_name,
        runner="pooling",
        convert="embed",
        # -1: the model's own, or what fits into memory.
        max_model_len=settings.max_model_len or -1,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        enforce_eager=settings.enforce_eager,
        trust_remote_code=settings.trust_remote_code,
        enable_sleep_mode=settings.enable_sleep_mode,
        **more,
    )
    limit = int(llm.llm_engine.vllm_config.model_config.max_model_len)
    return VllmPooling(llm, limit, can_sleep=settings.enable_sleep_mode)
