"""What each image of src/docker is asked to do.  Pure."""

from dataclasses import dataclass

# For images with an engine.  Its processes talk by shared memory, of which Docker gives 64 MB where
# nothing is said; and the CPU's KV cache would take 4 GB.
ENGINE = (
    *("--volume", "{models}:/models:ro", "--shm-size", "1g"),
    *("--env", "VLLM_CPU_KVCACHE_SPACE=1", "--env", "MAX_MODEL_LEN=2048"),
)


@dataclass(frozen=True, slots=True)
class Server:
    """An image that serves.

    Attributes:
        path: of the one request; a chat request where *model* is set.
        args: after the image's own; `{fleet}` is the address of a simulated fleet.
        options: of `docker run`; `{models}` is a volume with a model in the folder `tiny`.
        start_s: most seconds to the first 200 of /health.
    """

    image: str
    port: int
    args: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    path: str = "/v1/chat/completions"
    start_s: float = 15.0


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
)

# Images that do one thing and end.
PROGRAMS = ("bench",)
