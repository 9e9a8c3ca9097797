"""The HTTP interface of one simulated engine, worded as vLLM words it."""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import structlog
from aiohttp import web

from servekit.enginesim.prompts import text_tokens
from servekit.errors.tree import (
    EngineRefused,
    ModelUnknown,
    RequestError,
    RequestInvalid,
    ServeError,
)
from servekit.wire.openai import error_envelope
from simulator.answer_plan import AnswerPlan, plan_answer
from simulator.answers import EngineGone, PendingAnswer, StreamedChoice, WholeChoice
from simulator.faults import InjectedFault, read_fault
from simulator.parameters import (
    FieldInvalid,
    NotSimulated,
    ParameterInvalid,
    Parameters,
    read_parameters,
)
from simulator.prompts import Prompt, chat_prompt, completion_prompts
from simulator.replica import SimulatedReplica, TokenSink
from simulator.sleep import SLEEP_S, WAKE_S
from simulator.templates import DONE, AnswerKind, usage_event, whole_answer

# A token of the largest prompts (1M tokens of up to 6 digits) with room to spare.
MAX_BODY_BYTES = 64 * 1024 * 1024

_STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8"}

log = structlog.get_logger()

Planned = tuple[Prompt, AnswerPlan]


class EngineApi:
    """The routes of one replica.

    *restart* closes the port, waits and opens it again; it belongs to the owner of the socket.
    """

    def __init__(
        self, replica: SimulatedReplica, restart: Callable[[float], None], *, dev_mode: bool = True
    ) -> None:
        self._replica = replica
        self._restart = restart
        self._created = int(time.time())
        self._random = Random(replica.spec.seed)
        self._dev_mode = dev_mode

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors])
        app.router.add_get("/health", self._health)
        app.router.add_get("/ping", self._health)
        app.router.add_get("/version", self._version)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/load", self._load)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/simulator/fault", self._fault)
        app.router.add_get("/simulator/state", self._state)
        if self._dev_mode:
            app.router.add_post("/reset_prefix_cache", self._reset_prefix_cache)
            app.router.add_post("/sleep", self._sleep)
            app.router.add_post("/wake_up", self._wake_up)
            app.router.add_get("/is_sleeping", self._is_sleeping)
        return app

    # Serving.

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        raw = _object(await request.read())
        asked = read_parameters(raw, chat=False)
        self._check_model(asked.model)
        spec = self._replica.spec
        prompts = completion_prompts(raw.get("prompt"), spec.options.block_size, spec.seed)
        echoed = asked.echo and asked.max_tokens == 0
        limit = 1 if echoed else asked.max_tokens or 0
        return await self._answer(request, asked, prompts, limit, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        raw = _object(await request.read())
        asked = read_parameters(raw, chat=True)
        self._check_model(asked.model)
        spec = self._replica.spec
        prompt = chat_prompt(
            spec.model, raw.get("messages", ""), spec.options.block_size, spec.seed
        )
        limit = asked.max_tokens
        limit = spec.max_model_len - prompt.tokens if limit is None else limit
        return await self._answer(request, asked, [prompt], limit, chat=True)

    def _check_model(self, model: str | None) -> None:
        served = self._replica.spec.model
        if model not in (None, served):
            raise ModelUnknown(f"The model `{model}` does not exist. Valid aliases: {served}.")

    async def _answer(
        self,
        request: web.Request,
        asked: Parameters,
        prompts: list[Prompt],
        limit: int,
        *,
        chat: bool,
    ) -> web.StreamResponse:
        if refusal := self._refusal():
            return refusal
        for prompt in prompts:
            self._check_length(prompt, limit)
        # The answers to a prompt follow one another, as vLLM numbers them.
        plans = [
            (prompt, plan_answer(asked, prompt, limit, number))
            for prompt in prompts
            for number in range(asked.n)
        ]
        kind = self._kind(chat)
        prompt_tokens = sum(prompt.tokens for prompt in prompts)
        await asyncio.sleep(self._replica.frontend_s(prompt_tokens))
        if asked.stream:
            usage = prompt_tokens if asked.include_usage else None
            return await self._stream(request, plans, kind, usage)
        return await self._whole(request, plans, kind, prompt_tokens)

    def _refusal(self) -> web.Response | None:
        """Return the answer of an engine that does not take requests now."""
        now = asyncio.get_running_loop().time()
        faults = self._replica.faults
        if faults.get("drain", now):
            return _error(503, "the server is shutting down")
        failing = faults.get("errors", now)
        if failing and self._hits(failing):
            return _error(failing.status, "injected fault (simulator)")
        return None

    def _hits(self, fault: InjectedFault) -> bool:
        return fault.share >= 1.0 or self._random.random() < fault.share

    def _cut_after(self) -> int | None:
        """Return the token after which a new answer is to die."""
        fault = self._replica.faults.get("die-mid-stream", asyncio.get_running_loop().time())
        return max(1, fault.after_tokens) if fault and self._hits(fault) else None

    def _check_length(self, prompt: Prompt, limit: int) -> None:
        """As vLLM 0.32 checks, in its words."""
        longest = self._replica.spec.max_model_len
        tokens = prompt.tokens
        if limit < 1 and tokens < longest:
            raise ParameterInvalid(f"max_tokens must be at least 1, got {limit}.", max_tokens=limit)
        if limit > longest:
            raise ParameterInvalid(
                f"max_tokens={limit} cannot be greater than max_model_len={longest}. Please "
                "request fewer output tokens.",
                max_tokens=limit,
            )
        if tokens >= longest:
            raise ParameterInvalid(
                f"This model's maximum context length is {longest} tokens. However, your prompt "
                f"contains at least {tokens} input tokens, which exceeds this limit even without "
                "any output tokens. Please reduce the length of the input prompt.",
                input_tokens=tokens,
            )
        if tokens + limit > longest:
            raise ParameterInvalid(
                f"This model's maximum context length is {longest} tokens. However, you requested "
                f"{limit} output tokens and your prompt contains at least {tokens} input tokens, "
                f"for a total of at least {tokens + limit} tokens. Please reduce the length of the "
                "input prompt or the number of requested output tokens.",
                input_tokens=tokens,
            )

    def _kind(self, chat: bool) -> AnswerKind:
        prefix = "chatcmpl-" if chat else "cmpl-"
        return AnswerKind(
            chat, prefix + uuid.uuid4().hex[:16], self._replica.spec.model, int(time.time())
        )

    def _submit(self, plans: list[Planned], choices: list[TokenSink]) -> list[int]:
        """Queue every answer, or none.

        Raises:
            EngineRefused: the queue is full.
        """
        ids: list[int] = []
        try:
            for (prompt, plan), choice in zip(plans, choices, strict=True):
                ids.append(
                    self._replica.submit(
                        prompt.tokens, prompt.segments, plan.tokens, plan.reason, choice
                    )
                )
        except ServeError:
            self._abort(ids)
            raise
        return ids

    def _abort(self, ids: list[int]) -> None:
        for request_id in ids:
            self._replica.abort(request_id)

    async def _whole(
        self, request: web.Request, plans: list[Planned], kind: AnswerKind, prompt_tokens: int
    ) -> web.Response:
        answer = PendingAnswer(len(plans))
        cut_after = self._cut_after()
        ids = self._submit(plans, [WholeChoice(answer, n, cut_after) for n in range(len(plans))])
        try:
            await answer.done
        except EngineGone:
            return _hang_up(request)
        finally:
            self._abort(ids)
        whole = whole_answer(kind, [plan for _, plan in plans], prompt_tokens)
        return web.Response(body=whole, content_type="application/json")

    async def _stream(
        self,
        request: web.Request,
        plans: list[Planned],
        kind: AnswerKind,
        prompt_tokens: int | None,
    ) -> web.StreamResponse:
        """Answer with events; *prompt_tokens* are told in the end, unless it is None."""
        answer = PendingAnswer(len(plans))
        cut_after = self._cut_after()
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        response.enable_chunked_encoding()
        choices: list[TokenSink] = [
            StreamedChoice(answer, index, kind, plan, transport, cut_after)
            for index, (_, plan) in enumerate(plans)
        ]
        ids = self._submit(plans, choices)
        try:
            # Nothing is written before this returns: it does not wait, and steps end in timers.
            await response.prepare(request)
            await answer.done
        except EngineGone:
            _hang_up(request)
            return response
        finally:
            self._abort(ids)
        ending = DONE
        if prompt_tokens is not None:
            ending = usage_event(kind, prompt_tokens, sum(answer.tokens)) + DONE
        await response.write_eof(ending)
        return response

    # About the engine.

    async def _health(self, _: web.Request) -> web.Response:
        draining = self._replica.faults.get("drain", asyncio.get_running_loop().time())
        return web.Response(status=503 if draining else 200)

    async def _version(self, _: web.Request) -> web.Response:
        return _json({"version": str(self._replica.spec.vllm_version)})

    async def _models(self, _: web.Request) -> web.Response:
        spec = self._replica.spec
        card = {
            "id": spec.model,
            "object": "model",
            "created": self._created,
            "owned_by": "vllm",
            "root": spec.model,
            "parent": None,
            "max_model_len": spec.max_model_len,
            "permission": [
                {
                    "id": f"modelperm-{spec.name}",
                    "object": "model_permission",
                    "created": self._created,
                    "allow_create_engine": False,
                    "allow_sampling": True,
                    "allow_logprobs": True,
                    "allow_search_indices": False,
                    "allow_view": True,
                    "allow_fine_tuning": False,
                    "organization": "*",
                    "group": None,
                    "is_blocking": False,
                }
            ],
        }
        return _json({"object": "list", "data": [card]})

    async def _metrics(self, _: web.Request) -> web.Response:
        if self._replica.faults.get("drop-metrics", asyncio.get_running_loop().time()):
            return web.Response(status=500, text="injected fault (simulator)\n")
        return web.Response(
            body=self._replica.exposition().encode(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def _load(self, _: web.Request) -> web.Response:
        return _json({"server_load": self._replica.engine.in_flight})

    async def _tokenize(self, request: web.Request) -> web.Response:
        """Count the tokens of a text by the simulator's estimate; the ids are made up."""
        raw = _object(await request.read())
        text = str(raw.get("prompt", ""))
        if "messages" in raw:
            text = "".join(str(message.get("content", "")) for message in raw["messages"])
        count = text_tokens(text.encode())
        longest = self._replica.spec.max_model_len
        return _json({"count": count, "max_model_len": longest, "tokens": list(range(count))})

    # vLLM's development mode (VLLM_SERVER_DEV_MODE=1).

    async def _reset_prefix_cache(self, _: web.Request) -> web.Response:
        self._replica.engine.forget_prefixes()
        return web.Response()

    async def _sleep(self, request: web.Request) -> web.Response:
        level = request.query.get("level", "1")
        if level not in ("0", "1", "2"):
            raise RequestError(f"level is {level!r}; it must be 0, 1 or 2")
        await asyncio.sleep(SLEEP_S[int(level)] / self._replica.spec.speed)
        self._replica.fall_asleep(int(level))
        return web.Response()

    async def _wake_up(self, _: web.Request) -> web.Response:
        level = self._replica.sleep_level
        await asyncio.sleep(WAKE_S[level] / self._replica.spec.speed)
        self._replica.wake_up()
        return web.Response()

    async def _is_sleeping(self, _: web.Request) -> web.Response:
        return _json({"is_sleeping": self._replica.sleep_level > 0})

    # Not vLLM's: the simulator's own.

    async def _fault(self, request: web.Request) -> web.Response:
        fault = read_fault(await request.read())
        log.info("fault set", replica=self._replica.spec.name, kind=fault.kind)
        if fault.kind == "slow-start":
            self._restart(fault.seconds or 0.0)
        else:
            self._replica.set_fault(fault)
        return _json({"fault": fault.kind})

    async def _state(self, _: web.Request) -> web.Response:
        """What the engine did, and how late the simulator itself was at worst."""
        replica = self._replica
        counters = replica.engine.counters
        return _json(
            {
                "replica": replica.spec.name,
                "calibration": replica.spec.calibration.source,
                "in_flight": replica.engine.in_flight,
                "worst_lag_s": replica.worst_lag_s,
                "counters": {name: getattr(counters, name) for name in counters.__slots__},
            }
        )


def _hang_up(request: web.Request) -> web.Response:
    """Close the connection without ending the answer; the returned response is not sent."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _object(body: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestInvalid(f"the body is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise RequestInvalid("the body is not a JSON object")
    return raw


def _json(body: object) -> web.Response:
    return web.Response(
        body=json.dumps(body, separators=(",", ":")).encode(), content_type="application/json"
    )


def _error(
    status: int, message: str, kind: str | None = None, param: str | None = None
) -> web.Response:
    return web.Response(
        status=status,
        body=error_envelope(status, message, kind, param),
        content_type="application/json",
    )


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every error in the envelope that OpenAI's clients read."""
    try:
        return await handler(request)
    except ModelUnknown as error:
        return _error(404, str(error), param="model")
    except EngineRefused as error:
        return _error(error.status, str(error))
    except (ParameterInvalid, NotSimulated) as error:
        return _error(400, str(error), param=error.parameter)
    except FieldInvalid as error:
        return _error(400, str(error), kind="Bad Request", param=error.field)
    except RequestInvalid as error:
        return _error(400, str(error), kind="Bad Request")
    except RequestError as error:
        return _error(400, str(error))
    except web.HTTPException as error:
        # vLLM's framework answers unknown paths and methods this way.
        return web.json_response({"detail": error.reason}, status=error.status)
