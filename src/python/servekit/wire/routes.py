"""Every HTTP route that we call or answer: the one table of paths.  Pure.

`ROUTES` says of each path which dialect its answers speak, who may ask, which replica is asked, and
whether another one may be asked after a failure.  What is not in the table is not relayed.
tests/golden holds what vLLM serves: a test finds there what we ask of every engine, and among these
each route that our code spells out.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from servekit.wire.dialects import Dialect

HEALTH = "/health"
VERSION = "/version"
METRICS = "/metrics"
MODELS = "/v1/models"
MODEL = "/v1/models/{id}"
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
RESPONSE = "/v1/responses/{id}"
CANCEL_RESPONSE = "/v1/responses/{id}/cancel"
RESPONSE_ITEMS = "/v1/responses/{id}/input_items"
MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
REALTIME = "/v1/realtime"
TOKENIZE = "/tokenize"

GENERATE = (HEALTH, VERSION, METRICS, MODELS, COMPLETIONS, CHAT, TOKENIZE)

# An engine with --runner pooling serves these in place of completions and chat.
EMBEDDINGS = "/v1/embeddings"

POOLING = (EMBEDDINGS,)

# Only where the engine was started with VLLM_SERVER_DEV_MODE=1.
SLEEP = "/sleep"
WAKE_UP = "/wake_up"
IS_SLEEPING = "/is_sleeping"

DEVELOPMENT = (SLEEP, WAKE_UP, IS_SLEEPING)

# For Amazon SageMaker: a ping, and any of the above by what the body looks like.
PING = "/ping"
INVOCATIONS = "/invocations"
# Requests that the server counts, for whoever balances them.
LOAD = "/load"

# Not vLLM's: the load balancers add them.
READY = "/readyz"
REPLICAS = "/replicas"
DECISIONS = "/decisions"
STATUS = "/status"

OURS = (READY, REPLICAS, DECISIONS, STATUS)


class Audience(Enum):
    """Who may ask for a path."""

    # On every port.
    ANYONE = auto()
    CLIENT = auto()
    # It shows the state of the fleet: with an admin key, where there are any.
    OPERATOR = auto()
    # It changes engines: with an admin key, always.
    ADMIN = auto()


class Target(Enum):
    """Which replicas get a request."""

    # None: the load balancer answers.
    NONE = auto()
    # The one that the policy chooses, by the model in the body.
    CHOSEN = auto()
    # The one that has made the response in the path.
    OWNER = auto()
    EVERY = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """One path.

    Attributes:
        path: `{id}` stands for one segment, or for the rest where it is a model's name.
        retried: whether another replica may be asked where nothing of an answer has come yet.
        generates: whether an answer without a token is a fault.
        upgrades: whether a WebSocket may be opened there; the model is then in the query.
        keyless: whether no key is asked for.
    """

    path: str
    methods: tuple[str, ...] = ("POST",)
    dialect: Dialect = Dialect.OPENAI
    audience: Audience = Audience.CLIENT
    target: Target = Target.CHOSEN
    retried: bool = True
    generates: bool = False
    upgrades: bool = False
    keyless: bool = False


_READ = ("GET", "HEAD")
_GET = ("GET",)
_UNKNOWN, _RESPONSES, _MESSAGES = Dialect.UNKNOWN, Dialect.RESPONSES, Dialect.MESSAGES
_OWNER = Target.OWNER


def _local(path: str, audience: Audience, *, keyless: bool = False) -> Route:
    return Route(path, _READ, audience=audience, target=Target.NONE, keyless=keyless)


# What the load balancer answers by itself.
_LOCAL = (
    _local(HEALTH, Audience.ANYONE, keyless=True),
    _local(READY, Audience.ANYONE, keyless=True),
    _local(MODELS, Audience.CLIENT),
    _local(MODEL, Audience.CLIENT),
    _local(METRICS, Audience.OPERATOR),
    _local(REPLICAS, Audience.OPERATOR),
    _local(DECISIONS, Audience.OPERATOR),
    # A page that holds nothing until a key is entered.
    _local(STATUS, Audience.OPERATOR, keyless=True),
)

# What engines answer about a model; which of them an engine has depends on its model.
_RELAYED = (
    Route(CHAT, generates=True),
    Route(COMPLETIONS, generates=True),
    Route(EMBEDDINGS),
    Route(MESSAGES, dialect=_MESSAGES, generates=True),
    Route(COUNT_TOKENS, dialect=_MESSAGES),
    Route(RESPONSES, dialect=_RESPONSES, generates=True, upgrades=True),
    # Kept by the replica that made it, and by no other.
    Route(RESPONSE, ("GET", "DELETE"), _RESPONSES, target=_OWNER, retried=False),
    Route(CANCEL_RESPONSE, dialect=_RESPONSES, target=_OWNER, retried=False),
    Route(RESPONSE_ITEMS, _GET, _RESPONSES, target=_OWNER, retried=False),
    Route(REALTIME, (), _UNKNOWN, upgrades=True),
    Route("/v1/audio/transcriptions"),
    Route("/v1/audio/translations"),
    Route("/v1/chat/completions/batch"),
    Route("/v1/chat/completions/render"),
    Route("/v1/chat/completions/derender"),
    Route("/v1/completions/render"),
    Route("/v1/completions/derender"),
    Route("/v1/messages/render", dialect=_MESSAGES),
    Route("/v1/responses/render", dialect=_RESPONSES),
    Route("/v1/classify"),
    Route("/v1/rerank"),
    Route("/v1/score"),
    Route(TOKENIZE),
    Route("/detokenize"),
    Route("/classify"),
    Route("/generative_scoring"),
    Route("/inference/v1/generate", dialect=_UNKNOWN),
    Route("/pooling"),
    Route("/rerank"),
    Route("/score"),
    Route("/v2/embed"),
    Route("/v2/rerank"),
)


def _admin(path: str, methods: tuple[str, ...] = ("POST",)) -> Route:
    return Route(path, methods, Dialect.OPENAI, Audience.ADMIN, Target.EVERY, retried=False)


# What changes engines alike.  What is about one engine (its ranks, its weights) is asked there.
_ADMIN = (
    _admin("/v1/load_lora_adapter"),
    _admin("/v1/unload_lora_adapter"),
    _admin("/reset_prefix_cache"),
    _admin("/reset_mm_cache"),
    _admin("/reset_encoder_cache"),
    _admin("/start_profile"),
    _admin("/stop_profile"),
    _admin("/abort_requests"),
    _admin("/pause"),
    _admin("/resume"),
    _admin("/is_paused", _GET),
    _admin(SLEEP),
    _admin(WAKE_UP),
    _admin(IS_SLEEPING, _GET),
)

ROUTES = (*_LOCAL, *_RELAYED, *_ADMIN)

# By POST, below /v1 and outside it.
_POSTED = tuple(r.path for r in _RELAYED if "POST" in r.methods and "{" not in r.path)
API_ROUTES = tuple(path for path in _POSTED if path.startswith("/v1/"))
MODEL_ROUTES = tuple(path for path in _POSTED if not path.startswith("/v1/"))

# vLLM's ids are letters, digits, `-` and `_`.
_ID = r"([\w-]{1,200})"
# A name of a model has slashes and dots.
_NAME = r"([^?#]+)"


class RouteTable:
    """The table, to look paths up in."""

    def __init__(self, extra: tuple[str, ...] = ()) -> None:
        """*extra*: further paths that are relayed by POST, in a dialect that is not known."""
        # Whatever is named besides: what is known stays for whom it is.
        routes = (*(Route(path, dialect=Dialect.UNKNOWN) for path in extra), *ROUTES)
        self._exact = {route.path.encode(): route for route in routes if "{" not in route.path}
        self._patterns = [
            (re.compile(_pattern(route.path)), route) for route in routes if "{" in route.path
        ]

    def find(self, target: bytes) -> Route | None:
        """Return the row of *target*, a path with or without a query; None where there is none.

        Nothing is cleaned up first: with dots or escapes in it, whatever does that on the way to
        an engine would turn /v1/../sleep into something else.
        """
        route = self._exact.get(target)
        if route is not None:
            return route
        path = target.partition(b"?")[0]
        return self._exact.get(path) or self._match(path)[0]

    def id_in(self, path: bytes) -> str:
        """Return what stands in *path* for `{id}`; empty where nothing does."""
        return self._match(path)[1]

    def _match(self, path: bytes) -> tuple[Route | None, str]:
        for pattern, route in self._patterns:
            match = pattern.fullmatch(path.decode("latin-1"))
            if match is not None:
                return route, match[1]
        return None, ""


def _pattern(path: str) -> str:
    return path.replace("{id}", _NAME if path == MODEL else _ID)
