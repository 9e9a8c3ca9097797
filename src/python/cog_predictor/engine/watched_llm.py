"""vLLM's AsyncLLM, with its requests counted and their schemas bounded.

Predictions and vLLM's own routes ask the same engine: what is said here holds for both.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from servekit.launch.engine_work import EngineWork
from servekit.wire.schemas import require_bounded_schema


class SchemaRefused(ValueError):
    """As vLLM reports a parameter that it does not take: its own routes answer 400."""


def watched(kind: Any, work: EngineWork, now: Callable[[], float]) -> Any:
    """Return the class *kind*, an AsyncLLM's, that tells *work* what becomes of each request."""

    class WatchedLLM(kind):  # type: ignore[misc]
        async def generate(
            self, prompt: Any, sampling_params: Any, *args: Any, **more: Any
        ) -> AsyncGenerator[Any, None]:
            check_schema(sampling_params)
            work.begin(now())
            is_abandoned = True
            try:
                generating = super().generate(prompt, sampling_params, *args, **more)
                async with aclosing(generating) as outputs:
                    async for output in outputs:
                        is_abandoned = False
                        work.hear(now())
                        yield output
            except Exception:
                # Refused, or failed: nobody gave up.
                is_abandoned = False
                raise
            finally:
                work.end(abandoned=is_abandoned)

    return WatchedLLM


def check_schema(sampling_params: Any) -> None:
    """Refuse a schema that would end the process.

    Raises:
        SchemaRefused: it counts too many items.
    """
    structured = getattr(sampling_params, "structured_outputs", None)
    if structured is not None:
        try:
            require_bounded_schema([structured.json, structured.structural_tag])
        # A request error of ours is none that vLLM's routes know.
        except Exception as error:
            raise SchemaRefused(str(error)) from error
