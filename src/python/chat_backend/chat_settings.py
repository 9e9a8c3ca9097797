"""What the backend reads from its environment.  Pure."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import msgspec

from servekit.settings.environment import Settings

_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class ChatSettings(Settings, frozen=True):
    """Each field is the variable of its name in capitals; the README explains them."""

    retired: ClassVar[Mapping[str, str]] = {"VLLM_SERVICE_URL": "ENGINE_URL"}

    engine_url: str = "http://llama-model-server:8000"
    model_name: str = "llama-3.2-3b"
    host: str = "0.0.0.0"  # noqa: S104  # a container is reached through its own address
    port: int = 8080
    system_prompt: str = ""
    # A whole answer of 100 tokens takes 3 s on a T4; the original gave it 30 s.
    request_timeout_s: _Seconds = 30.0
    connect_timeout_s: _Seconds = 2.0
    max_tokens_limit: _Count = 2048
    # Four bytes a token: the 4096 tokens of the model server's context, with room for an answer.
    max_message_chars: _Count = 12_000
    max_body_bytes: _Count = 1_000_000
    rate_limit_per_minute: Annotated[int, msgspec.Meta(ge=0)] = 60
    trusted_proxies: tuple[str, ...] = ()
    user_header: str = ""
    cors_origins: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
