"""How the watchdog of a container asks its engine: over HTTP, past the front."""

import msgspec

from servekit.client.client import COMPLETIONS, Client
from servekit.client.outcome import Fault
from servekit.launch.watchdog import core_counters
from servekit.wire.openai import CompletionRequest
from servekit.wire.routes import METRICS

# A look must not hang on an engine that accepts and does not answer.
LOOK_TIMEOUT_S = 5.0


class HttpEngineProbe:
    """An engine with vLLM's routes."""

    def __init__(self, client: Client, model: str) -> None:
        """*client* asks the engine itself, and not the front; *model* is a name it serves."""
        self._client = client
        self._model = model

    async def counters(self) -> object | None:
        status, text = await self._client.get(METRICS)
        return core_counters(text) if status == 200 else None

    async def computes(self) -> bool:
        request = CompletionRequest(model=self._model, prompt="a", max_tokens=1)
        body = msgspec.json.encode(request)
        outcome = await self._client.send(COMPLETIONS, body, stream=False)
        # An error status is the API server's, and shows nothing; nobody waits any more.
        return outcome.ok or outcome.error == Fault.EMPTY or str(outcome.error).startswith("http ")
