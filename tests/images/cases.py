"""What each image of src/docker is asked to do.  Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# For images with an engine.  Its processes talk by shared memory, of which Docker gives 64 MB where
# nothing is said; and the CPU's KV cache would take 4 GB.
ENGINE = (
    *("--volume", "{models}:/models:ro", "--shm-size", "1g"),
    *("--env", "VLLM_CPU_KVCACHE_SPACE=1", "--env", "MAX_MODEL_LEN=2048"),
)


CHAT = {"max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}


# The first replica of the fleet that the simulator's image serves.
FLEET_MODEL = "meta-llama/Llama-3.1-8B-Instruct"

CHAT_BACKEND = (
    *("--env", "ENGINE_URL=http://{fleet}:8001"),
    *("--env", f"MODEL_NAME={FLEET_MODEL}"),
)
QUESTION = {"message": "hello", "max_tokens": 4}


@dataclass(frozen=True, slots=True)
class Server:
    """An image that serves.

    Attributes:
        args: after the image's own; `{fleet}` is the address of a simulated fleet.
        options: of `docker run`; `{models}` is a volume with a model in the folder `tiny`.
        start_s: most seconds to the first time that it is healthy.
        health: a path that answers 200 then.
        healthy: what the answer to it contains then.
        path: of the one request.
        body: of that request; `model` is added for OpenAI's API.
        answered: what the answer contains.
    """

    image: str
    port: int
    args: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    start_s: float = 30.0
    health: str = "/health"
    healthy: str = ""
    path: str = "/v1/chat/completions"
    body: Mapping[str, object] = field(default_factory=lambda: CHAT)
    answered: str = '"completion_tokens":'


SERVERS = (
    Server("simulator", 8001),
    Server("baseline_lb", 8080, ("--endpoints", "http://{fleet}:8001,http://{fleet}:8002")),
    Server("managed_lb", 8081, ("--endpoints", "http://{fleet}:8001,http://{fleet}:8002")),
    Server(
        "cloudrun",
        8000,
        options=(*ENGINE, "--env", "MODEL_NAME=/models/tiny", "--env", "MODEL_REVISION="),
        start_s=300.0,
    ),
    Server(
        "model_server",
        8000,
        # The volume is read-only here, so that what the engine compiles is kept in /tmp.
        options=(
            *(*ENGINE, "--env", "MODEL_NAME=/models/tiny", "--tmpfs", "/tmp:exec,size=2g"),  # noqa: S108
            # It would take requests for five seconds more, as a Kubernetes Service needs it.
            *("--env", "SHUTDOWN_LINGER_S=1"),
        ),
        start_s=300.0,
    ),
    Server(
        "cog_predictor",
        5000,
        options=(*ENGINE, "--env", "COG_WEIGHTS=/models/tiny"),
        start_s=300.0,
        health="/health-check",
        healthy="READY",
        path="/predictions",
        body={"input": {"prompt": "hello", "max_tokens": 4}},
        answered='"succeeded"',
    ),
    Server(
        "chat_backend",
        8080,
        options=CHAT_BACKEND,
        path="/chat",
        body=QUESTION,
        answered='"response":',
    ),
    Server(
        "chat",
        8080,
        options=("--env", "BACKEND_URL=http://{backend}:8080"),
        health="/healthz",
        path="/api/chat",
        body=QUESTION,
        answered='"response":',
    ),
    Server(
        "modal_embedding",
        8000,
        ("--model", "/models/tiny", "--no-auth"),
        ENGINE,
        start_s=300.0,
        path="/v1/embeddings",
        body={"input": ["hello"]},
        answered='"embedding":',
    ),
)

# Images that do one thing and end.  The notifier answers nothing without an account of Google's.
PROGRAMS = ("bench", "build_notifier")

# Compiled against CUDA, in a base that is not to be had here.
NEED_CUDA = ("kvcached",)

# Built with the Node of this machine; build-support/images/build leaves them out where there is
# none.
NEED_NODE = ("chat",)
