"""vLLM's own OpenAI routes, on a second port, before the engine that answers predictions.

Chat messages, images, tools, JSON schemas, log probabilities and streaming are vLLM's; nothing of
them is rebuilt here.  Listens where OPENAI_PORT says, and not at all without it.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from cog_predictor.engine.openai_gate import gated
from servekit.engine.extra_arguments import ExtraArguments
from servekit.errors.tree import SettingInvalid
from servekit.secrets.secret import Secret


def openai_port(environ: Mapping[str, str]) -> int | None:
    """Return OPENAI_PORT; None where there is none.

    Raises:
        SettingInvalid: it is no port.
    """
    text = environ.get("OPENAI_PORT", "")
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingInvalid(f"OPENAI_PORT is {text!r}; it is a port, such as 8000")
    if text == environ.get("PORT", "5000"):
        raise SettingInvalid(f"OPENAI_PORT is {text}, where predictions are served; choose another")
    return int(text)


async def serve_openai(llm: Any, model: str, environ: Mapping[str, str]) -> None:
    """Begin to serve, on every address as Cog's own server does, and return.

    Args:
        llm: the AsyncLLM.
        model: the folder; its name is what callers call the model.

    Raises:
        SettingInvalid: the port is taken, or vLLM does not take OPENAI_ARGS.
    """
    port = openai_port(environ)
    if port is None:
        return
    uvicorn = import_module("uvicorn")
    build_app = import_module("vllm.entrypoints.launchers.app").build_app
    app_state = import_module("vllm.entrypoints.launchers.api_server.app_state")
    given = ExtraArguments.from_setting(environ.get("OPENAI_ARGS", ""), "OPENAI_ARGS")
    args = _arguments(model, given.words)
    tasks = await llm.get_supported_tasks()
    app = build_app(args, tasks, llm.model_config)
    await app_state.init_app_state(llm, app.state, args, tasks)
    host = "0.0.0.0"  # noqa: S104  # a container's own network, as for predictions
    keys = (*given.api_keys, *_keys(environ))
    gate = gated(app, keys)
    server = uvicorn.Server(uvicorn.Config(gate, host=host, port=port, log_level="warning"))
    # Signals are the business of the server whose worker we are.
    server.capture_signals = _no_signals
    serving = asyncio.get_running_loop().create_task(_until_stopped(server), name="openai routes")
    while not server.started:
        if serving.done():
            raise SettingInvalid(f"OPENAI_PORT {port} cannot be listened on; choose another")
        await asyncio.sleep(0.01)
    # The loop keeps only a weak reference to its tasks.
    app.state.servekit_task = serving


async def _until_stopped(server: Any) -> None:
    try:
        await server.serve()
    except SystemExit:
        # uvicorn's way to say that the port is taken.
        return


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


def _keys(environ: Mapping[str, str]) -> Iterator[Secret]:
    if key := environ.get("VLLM_API_KEY"):
        yield Secret(key)


def _arguments(model: str, extra: Sequence[str]) -> Any:
    cli_args = import_module("vllm.entrypoints.launchers.cli_args")
    parser = import_module("vllm.utils.argparse_utils").FlexibleArgumentParser()
    name = model.rstrip("/").rpartition("/")[2]
    given = ["--model", model, "--served-model-name", name, *extra]
    try:
        return cli_args.make_arg_parser(parser).parse_args(given)
    except SystemExit as error:
        raise SettingInvalid(
            "vLLM does not take OPENAI_ARGS (not shown: it may hold a key); write arguments of "
            "`vllm serve`, such as --enable-auto-tool-choice --tool-call-parser hermes"
        ) from error
