"""The settings of the service, on Modal and elsewhere.  Pure."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from msgspec.structs import fields, replace

from servekit.errors.tree import SettingInvalid
from servekit.secrets.secret import Secret
from servekit.secrets.urls import public_url
from servekit.settings.environment import Settings, read_settings

DEFAULT_MODEL = "tencent/KaLM-Embedding-Gemma3-12B-2511"

# The sizes that the model was trained to be cut to; its own is the first.
KALM_DIMENSIONS = (3840, 2048, 1024, 512, 256, 128, 64)

# As the model's family is evaluated (mteb's model_meta of KaLM-Embedding), blanks around the line's
# end included: a model tells prompts apart by their tokens.
KALM_QUERY_TEMPLATE = "Instruct: {instruction} \n Query: {text}"

# What E5-instruct, Qwen3-Embedding and others were trained with.
_COMMON_QUERY_TEMPLATE = "Instruct: {instruction}\nQuery: {text}"


class EmbeddingSettings(Settings, frozen=True):
    """What is served, and how.

    Attributes:
        model_revision: a branch, a tag or a commit; empty for the default branch.
        matryoshka_dimensions: sizes a vector may be cut to; without one, only its own.
        query_instruction: what queries are for, in the words of the model's card.
        query_template: how an instruction and a text become a prompt.
        max_model_len: longest text in tokens; 0 for the model's own, or what fits into memory.
        gpu: as Modal names it.
        enable_sleep_mode: vLLM can let go of the GPU's memory; a CPU cannot.
        engine_batch_size: texts in one request to the engine.
        max_inputs: texts in one request to us.
        engine_url: an engine that already runs; without one, we start ours.
        embedding_api_key: what callers must present as a bearer token.
        proxy_auth: Modal's edge asks for its own token before it wakes anything.
        modal_secrets: names of secrets on Modal, for EMBEDDING_API_KEY and HF_TOKEN.
    """

    model_name: str = DEFAULT_MODEL
    model_revision: str = "CausalLM"
    served_model_name: str = ""
    matryoshka_dimensions: tuple[int, ...] = KALM_DIMENSIONS
    query_instruction: str = "Given a query, retrieve documents that answer the query"
    query_template: str = KALM_QUERY_TEMPLATE
    max_model_len: int = 8192
    gpu: str = "A100-40GB"
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool = True
    trust_remote_code: bool = True
    enable_gpu_snapshot: bool = True
    enable_sleep_mode: bool = True
    engine_batch_size: int = 64
    max_inputs: int = 2048
    max_containers: int = 2
    engine_url: str = ""
    engine_startup_timeout_s: float = 570.0
    embedding_api_key: Secret = Secret()
    proxy_auth: bool = True
    modal_secrets: tuple[str, ...] = ()
    routing_region: str = "us-east"
    vllm_version: str = "0.33.0"
    cuda_image: str = "nvidia/cuda:13.0.0-devel-ubuntu22.04"

    retired: ClassVar[Mapping[str, str]] = {
        "MODEL": "MODEL_NAME",
        "MODEL_ID": "MODEL_NAME",
        "REVISION": "MODEL_REVISION",
    }

    @property
    def public_model_name(self) -> str:
        """What callers call the model."""
        return self.served_model_name or public_url(self.model_name)


def read_embedding_settings(
    environ: Mapping[str, str], warn: Callable[[str], None]
) -> EmbeddingSettings:
    """Return the settings in *environ*.

    A model other than the default one has neither its revision nor its length nor its dimensions
    nor its query prompt: they are the model's own, or named with it.

    Raises:
        SettingInvalid: a value does not fit.
    """
    settings = read_settings(EmbeddingSettings, environ, warn)
    if settings.model_name != DEFAULT_MODEL:
        settings = _without_defaults_of_kalm(settings, environ)
    _check(settings)
    return settings


def _without_defaults_of_kalm(
    settings: EmbeddingSettings, environ: Mapping[str, str]
) -> EmbeddingSettings:
    if not environ.get("MODEL_REVISION") and not environ.get("REVISION"):
        settings = replace(settings, model_revision="")
    if not environ.get("MAX_MODEL_LEN"):
        settings = replace(settings, max_model_len=0)
    if not environ.get("MATRYOSHKA_DIMENSIONS"):
        settings = replace(settings, matryoshka_dimensions=())
    if not environ.get("QUERY_TEMPLATE"):
        settings = replace(settings, query_template=_COMMON_QUERY_TEMPLATE)
    return settings


def _check(settings: EmbeddingSettings) -> None:
    if settings.max_model_len < 0:
        raise SettingInvalid(
            f"MAX_MODEL_LEN is {settings.max_model_len}; it is 1 or more, or 0 for the model's own"
        )
    for name in ("engine_batch_size", "max_inputs", "max_containers"):
        if getattr(settings, name) < 1:
            value = getattr(settings, name)
            raise SettingInvalid(f"{name.upper()} is {value}; it is 1 or more")
    if any(size < 1 for size in settings.matryoshka_dimensions):
        raise SettingInvalid("MATRYOSHKA_DIMENSIONS has a size below 1; write sizes such as 512,64")
    share = settings.gpu_memory_utilization
    if not 0 < share <= 1:
        raise SettingInvalid(f"GPU_MEMORY_UTILIZATION is {share}; it is above 0 and up to 1")
    for field in ("{instruction}", "{text}"):
        if field not in settings.query_template:
            raise SettingInvalid(f"QUERY_TEMPLATE lacks {field}; it would be dropped")


# Secrets reach a container by Modal's own way, and never by its image.
_SECRET = frozenset({"EMBEDDING_API_KEY"})


def carried(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of *environ* a container must be given to read the same settings."""
    names = {field.encode_name for field in fields(EmbeddingSettings)}
    names |= set(EmbeddingSettings.retired)
    return {name: environ[name] for name in sorted(names - _SECRET) if environ.get(name)}


def check_protected(settings: EmbeddingSettings) -> None:
    """Raise SettingInvalid if anybody could call the endpoint on Modal."""
    if not settings.proxy_auth and not settings.modal_secrets and not settings.embedding_api_key:
        raise SettingInvalid(
            "PROXY_AUTH is off and there is no key, so that anybody could run the GPU: put "
            "EMBEDDING_API_KEY into a secret on Modal and name it in MODAL_SECRETS"
        )
