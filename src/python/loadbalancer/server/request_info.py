"""What a request asks for: its body looked at once, as far as the policies want to know.  Pure."""

import msgspec

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.balancing.replicas import RoutableRequest
from loadbalancer.server.forms import is_form, model_in_form
from servekit.errors.tree import RequestInvalid
from servekit.routing.policy import Policy
from servekit.routing.prefix_index import BLOCK_BYTES, prompt_blocks
from servekit.routing.request import RouteRequest

# A token of English is about four bytes; a policy only compares.
BYTES_PER_TOKEN = 4

SESSION_HEADER = b"x-session-id"
SESSION_COOKIE = "session_id"


class BodyFields(msgspec.Struct, frozen=True):
    """The fields of a body that matter; the prompt's are left as they were written.

    Attributes:
        input: what /v1/responses calls the conversation.
    """

    model: str = ""
    prompt: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()

    @property
    def conversation(self) -> memoryview:
        return memoryview(self.messages) or memoryview(self.prompt) or memoryview(self.input)


_decode = msgspec.json.Decoder(BodyFields).decode


def read_request(balancer: Balancer, fields: dict[bytes, bytes], body: bytes) -> RoutableRequest:
    """Return what is asked for.

    Raises:
        RequestInvalid: the body is not JSON, or names no model, or the policy is unknown.
        ModelUnknown: no replica serves the model.
        ReplicaMissing: none is known to serve it yet.
    """
    seen = look_at(body)
    service = balancer.service(seen.model)
    wanted = fields.get(b"x-servekit-policy") if balancer.rules.policy_header else None
    policy = service.policy if wanted is None else balancer.requested_policy(service, wanted)
    return RoutableRequest(
        service, policy, route_request(seen, fields, len(body), policy, service.shadow)
    )


def look_at(body: bytes) -> BodyFields:
    """Return what matters of *body*.

    Raises:
        RequestInvalid: it is neither a JSON object nor a form, or its model is not a string.
    """
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        raise RequestInvalid(f"the request does not fit the endpoint: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # Looked at only now: nearly all bodies are JSON.
        if is_form(body):
            return BodyFields(model_in_form(body))
        raise RequestInvalid(f"the body is not JSON: {error}") from error


def route_request(
    seen: BodyFields, fields: dict[bytes, bytes], size: int, policy: Policy, shadow: Policy | None
) -> RouteRequest:
    """Return the request as *policy*, and who shadows it, want to see it."""
    blocks: tuple[int, ...] = ()
    session = None
    reads = policy.reads_prompt or (shadow is not None and shadow.reads_prompt)
    # A body that is shorter than a block has none.
    if reads and size >= BLOCK_BYTES:
        # The whole conversation, as it was written: two that begin alike are alike in their bytes.
        blocks = prompt_blocks(seen.conversation)
    if policy.reads_session or (shadow is not None and shadow.reads_session):
        session = _session(fields)
    return RouteRequest(seen.model, size // BYTES_PER_TOKEN, blocks, session=session)


def _session(fields: dict[bytes, bytes]) -> str | None:
    named = fields.get(SESSION_HEADER)
    if named:
        return named.decode("latin-1")
    for pair in fields.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == SESSION_COOKIE:
            return value
    return None
