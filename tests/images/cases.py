"""What each image of src/docker is asked to do.  Pure."""

from dataclasses import dataclass

MODEL = "meta-llama/Llama-3.1-8B-Instruct"


@dataclass(frozen=True, slots=True)
class Server:
    """An image that serves.

    Attributes:
        path: of the one request; a chat request where *model* is set.
        args: after the image's own; `{fleet}` is the address of a simulated fleet.
        start_s: most seconds to the first 200 of /health.
    """

    image: str
    port: int
    args: tuple[str, ...] = ()
    path: str = "/v1/chat/completions"
    start_s: float = 15.0


SERVERS = (
    Server("simulator", 8001),
    Server("baseline_lb", 8080, ("--endpoints", "http://{fleet}:8001,http://{fleet}:8002")),
    Server("managed_lb", 8081, ("--endpoints", "http://{fleet}:8001,http://{fleet}:8002")),
)

# Images that do one thing and end.
PROGRAMS = ("bench",)
