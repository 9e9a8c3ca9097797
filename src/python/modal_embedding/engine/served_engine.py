"""An engine that runs elsewhere, for code that has no event loop.  Speaks HTTP."""

from collections.abc import Sequence

from modal_embedding.client.backends import HttpService, open_session
from modal_embedding.engine.loop_thread import LoopThread
from modal_embedding.messages.protocol import Embedded, EmbedOptions


class ServedEngine:
    """An OpenAI-compatible embeddings endpoint.  It is not ours to put to sleep."""

    def __init__(self, url: str, model: str, api_key: str) -> None:
        self._url = url
        self._model = model
        self._api_key = api_key
        self._loop = LoopThread()

    def embed(self, prompts: Sequence[str]) -> Embedded:
        return self._loop.run(self._embed(prompts))

    async def _embed(self, prompts: Sequence[str]) -> Embedded:
        # A session each: one that was open would not survive a snapshot.
        async with open_session(self._api_key) as session:
            return await HttpService(session, self._url, self._model).embed(prompts, EmbedOptions())

    def sleep(self) -> None:
        """Nothing to do."""

    def wake(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        self._loop.close()
