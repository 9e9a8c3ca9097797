"""Every HTTP route of vLLM's that we call or answer, in one place.

tests/golden holds what vLLM serves, and a test finds each of these there, and each route that our
code spells out among these.
"""

HEALTH = "/health"
VERSION = "/version"
METRICS = "/metrics"
MODELS = "/v1/models"
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
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

# What vLLM answers about a model outside /v1; which of them an engine has depends on its model.
MODEL_ROUTES = (
    TOKENIZE,
    "/detokenize",
    "/classify",
    "/generative_scoring",
    "/inference/v1/generate",
    "/pooling",
    "/rerank",
    "/score",
    "/v2/embed",
    "/v2/rerank",
)
# What it answers about a model below /v1, by POST.
API_ROUTES = (
    COMPLETIONS,
    CHAT,
    EMBEDDINGS,
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/chat/completions/batch",
    "/v1/classify",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/rerank",
    "/v1/responses",
    "/v1/score",
)
# For Amazon SageMaker: a ping, and any of the above by what the body looks like.
PING = "/ping"
INVOCATIONS = "/invocations"
# Requests that the server counts, for whoever balances them.
LOAD = "/load"
# Every other route about a model stands below it.
API_PREFIX = "/v1/"

# Not vLLM's: the load balancers add them.
READY = "/readyz"
REPLICAS = "/replicas"
DECISIONS = "/decisions"
STATUS = "/status"

OURS = (READY, REPLICAS, DECISIONS, STATUS)
