"""Who turns texts into vectors: an HTTP endpoint, or the class on Modal."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import aiohttp
import modal
import msgspec

from modal_embedding.messages.protocol import (
    Embedded,
    EmbedOptions,
    TokenIds,
    read_answer,
    read_too_long,
    request_body,
)
from modal_embedding.messages.vectors import as_vectors
from servekit.errors.tree import (
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
    ModelUnknown,
    RequestInvalid,
    RequestTooLarge,
    ServeError,
    SettingInvalid,
)
from servekit.wire.openai import read_answer as read_openai_answer

# A container that must be made from nothing: Modal's start plus an engine's, with room to spare.
REQUEST_TIMEOUT_S = 600.0

_JSON = {"Content-Type": "application/json"}


class Busy(EngineRefused):
    """Not now; the same request may succeed later.

    Attributes:
        retry_after_s: when, where the service said so.
    """

    def __init__(self, message: str, *, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after_s = retry_after_s


class EmbeddingBackend(Protocol):
    """Something that embeds a batch of texts."""

    async def embed(
        self, inputs: Sequence[str] | Sequence[TokenIds], ask: EmbedOptions
    ) -> Embedded:
        """Return one vector per input, in order.

        Raises:
            RequestError: these inputs cannot be embedded.
            EngineError: the service failed; another attempt may succeed.
            ConfigError: every attempt will fail like this one.
        """


class HttpService:
    """An OpenAI-compatible embeddings endpoint: ours, or an engine's."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        """*url* is without /v1.  The session carries the credentials; see `open_session`."""
        self._session = session
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model

    async def embed(
        self, inputs: Sequence[str] | Sequence[TokenIds], ask: EmbedOptions
    ) -> Embedded:
        body = request_body(
            inputs,
            self._model,
            dimensions=ask.dimensions,
            instruction=ask.instruction,
            input_type="query" if ask.query else None,
            truncate_prompt_tokens=ask.truncate_prompt_tokens,
        )
        return read_answer(await self.post("/v1/embeddings", body), len(inputs))

    async def count_tokens(self, text: str) -> int:
        """Return how many tokens an engine makes of *text*."""
        body = msgspec.json.encode({"model": self._model, "prompt": text})
        answer = msgspec.json.decode(await self.post("/tokenize", body))
        return int(answer["count"])

    async def max_model_len(self) -> int | None:
        """Return the longest text that an engine reads, in tokens; None where it does not say."""
        models = msgspec.json.decode(await self.get("/v1/models"))["data"]
        return next((model.get("max_model_len") for model in models), None)

    async def get(self, path: str) -> bytes:
        """Return the body of a GET."""
        return await self._request("GET", path, None)

    async def post(self, path: str, body: bytes = b"") -> bytes:
        """Return the body of the answer to a POST."""
        return await self._request("POST", path, body)

    async def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        try:
            async with self._session.request(
                method, self._url + path, data=body, headers=_JSON
            ) as answer:
                content = await answer.read()
        except TimeoutError as error:
            raise EngineTimeout(f"{self._url} did not answer in time; try again later") from error
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise SettingInvalid(f"{self._url!r} is no URL; use http://HOST:PORT") from error
        except aiohttp.ClientError as error:
            raise EngineUnreachable(
                f"{self._url} cannot be reached: {error or type(error).__name__}; is it running?"
            ) from error
        if answer.status == 200:
            return content
        raise _refusal(self._url, answer.status, content, answer.headers)


def open_session(
    api_key: str = "", proxy_token: tuple[str, str] | None = None
) -> aiohttp.ClientSession:
    """Return a session that presents *api_key* to us, and Modal's *proxy_token* to its edge."""
    headers = {}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    if proxy_token is not None:
        headers["Modal-Key"], headers["Modal-Secret"] = proxy_token
    return aiohttp.ClientSession(
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        # The caller decides how many requests there are at a time.
        connector=aiohttp.TCPConnector(limit=0),
    )


def _refusal(url: str, status: int, body: bytes, headers: Mapping[str, str]) -> ServeError:
    too_long = read_too_long(body)
    if too_long is not None:
        return too_long
    said = _message(body)
    if status in (401, 403):
        return SettingInvalid(
            f"{url} refused our credentials ({status}): set EMBEDDING_API_KEY, and for Modal's "
            "proxy MODAL_KEY and MODAL_SECRET"
        )
    if status == 404:
        return ModelUnknown(f"{url} answers 404: {said}")
    if status == 413:
        return RequestTooLarge(f"{url} answers 413: {said}; send smaller batches")
    if status in (408, 425, 429, 500, 502, 503, 504):
        message = f"{url} answers {status}: {said}; try again later"
        return Busy(message, status=status, retry_after_s=_seconds(headers.get("Retry-After")))
    if 400 <= status < 500:
        return RequestInvalid(said)
    return EngineRefused(f"{url} answers {status}: {said}", status=status)


def _message(body: bytes) -> str:
    try:
        error = read_openai_answer(body).error
    except RequestInvalid:
        error = None
    if error is not None:
        return error.message
    return " ".join(body[:200].decode("utf-8", "replace").split()) or "nothing"


def _seconds(text: str | None) -> float | None:
    # A date is possible too; nobody who stands before us sends one.
    return float(text) if text is not None and text.isdecimal() else None


class ModalService:
    """The class on Modal, called by Modal's own protocol: nothing of it is reachable by HTTP."""

    def __init__(self, app: str, cls: str) -> None:
        self._app = app
        self._cls = cls

    async def embed(
        self, inputs: Sequence[str] | Sequence[TokenIds], ask: EmbedOptions
    ) -> Embedded:
        rows = await self.call("embed", list(inputs), ask.dimensions, ask.instruction, ask.query)
        return Embedded(as_vectors(rows), 0)

    async def call(self, method: str, *args: object) -> Any:
        """Return what a method of the class returns.

        Raises:
            SettingInvalid: no token, or no such app.
            EngineUnreachable: Modal cannot be reached.
        """
        with modal_errors(self._app):
            instance = modal.Cls.from_name(self._app, self._cls)()
            return await getattr(instance, method).remote.aio(*args)


@contextmanager
def modal_errors(app: str) -> Iterator[None]:
    """Translate what Modal raises."""
    try:
        yield
    except modal.exception.AuthError as error:
        raise SettingInvalid(
            f"Modal does not know us ({error}): run `modal token new`, or set MODAL_TOKEN_ID and "
            "MODAL_TOKEN_SECRET"
        ) from error
    except modal.exception.NotFoundError as error:
        raise SettingInvalid(
            f"Modal has no app {app!r} with this class: run `modal deploy "
            "modal_vllm_embedding_with_snapshot.py`"
        ) from error
    except (modal.exception.ConnectionError, modal.exception.TimeoutError) as error:
        raise EngineUnreachable(f"Modal cannot be reached: {error}; try again later") from error
