"""What a request asks for: its body looked at once, as far as the policies want to know.  Pure."""

from typing import Any

import msgspec
import xxhash

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.balancing.replicas import ModelService, RoutableRequest
from loadbalancer.balancing.session_sources import SessionSources
from loadbalancer.kvevents.exact import TokenQuestion
from loadbalancer.prompt.canonical import BYTES_PER_TOKEN, PromptFields, ReadPrompt, read_prompt
from loadbalancer.server.forms import is_form, model_in_form
from servekit.errors.tree import RequestInvalid
from servekit.routing.policy import Policy
from servekit.routing.prefix_index import BLOCK_BYTES, prompt_blocks
from servekit.routing.request import RouteRequest
from servekit.routing.token_estimate import TokenEstimate

# A prompt this small may still name an image by its URL.
_URL = b"url"


class BodyFields(PromptFields, frozen=True):
    """The fields of a body that matter; the prompt's are left as they were written.

    Attributes:
        cache_salt: prompts with another one share no cache.
        prompt_cache_key, user: whose conversation it is, where no header says so.
        metadata: what Messages have a `user_id` in.
        previous_response_id: the response that a replica keeps, and that this one continues.
    """

    model: str = ""
    cache_salt: msgspec.Raw = msgspec.Raw()
    # Any: what is wrong with them, the engine says.
    prompt_cache_key: Any = None
    user: Any = None
    metadata: Any = None
    previous_response_id: Any = None

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
    rules = balancer.rules
    wanted = fields.get(b"x-servekit-policy") if rules.policy_header else None
    policy = service.policy if wanted is None else balancer.requested_policy(service, wanted)
    owner = "" if seen.previous_response_id is None else _owner(balancer, seen, service.model)
    routable = routable_request(
        service, policy, seen, fields, len(body), sessions=rules.sessions, owner=owner
    )
    if balancer.kv is None or not routable.route.blocks or routable.route.media_tokens:
        return routable
    return msgspec.structs.replace(routable, question=token_question(seen))


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
            return BodyFields(model=model_in_form(body))
        raise RequestInvalid(f"the body is not JSON: {error}") from error


def routable_request(
    service: ModelService,
    policy: Policy,
    seen: BodyFields,
    fields: dict[bytes, bytes],
    size: int,
    *,
    sessions: SessionSources | None = None,
    owner: str = "",
) -> RoutableRequest:
    """Return the request as *policy*, and the policy that shadows it, want to see it.

    *sessions*: where its session is named; None: only a policy that asks for one gets it.
    """
    shadow = service.shadow
    hashes = policy.reads_prompt or (shadow is not None and shadow.reads_prompt)
    counts = hashes or policy.reads_size or (shadow is not None and shadow.reads_size)
    if sessions is None and (policy.reads_session or (shadow and shadow.reads_session)):
        sessions = _USUAL_SESSIONS
    session = None if sessions is None else _session(sessions, seen, fields)
    prompt = _prompt(seen, size) if counts else ReadPrompt(b"", size // BYTES_PER_TOKEN)
    # Of no use to a policy that counts nothing: it then is not corrected either.
    parts = (prompt.text_tokens, prompt.media_tokens, prompt.token_ids) if counts else (0, 0, 0)
    route = route_request(seen, prompt, service.tokens, hashes=hashes)
    if session is not None:
        route = msgspec.structs.replace(route, session=session)
    return RoutableRequest(service, policy, route, parts, owner=owner)


def route_request(
    seen: BodyFields, prompt: ReadPrompt, tokens: TokenEstimate, *, hashes: bool
) -> RouteRequest:
    """Return what routing sees of *prompt*."""
    size = len(prompt.content)
    number = tokens.tokens(prompt.text_tokens, prompt.media_tokens, prompt.token_ids)
    media = min(number, round(prompt.media_tokens * tokens.media_ratio))
    if not hashes or size < BLOCK_BYTES:
        return RouteRequest(seen.model, number, media_tokens=media)
    # So many tokens has a block of this prompt.
    block_tokens = max(1, round(number * BLOCK_BYTES / size))
    blocks = prompt_blocks(prompt.content, seed=_seed(seen))
    return RouteRequest(seen.model, number, blocks, block_tokens, media_tokens=media)


def _prompt(seen: BodyFields, size: int) -> ReadPrompt:
    """Return the prompt; where it is too short to have a block, only about how long it is."""
    written = seen.conversation
    if size < BLOCK_BYTES and _URL not in bytes(written):
        return ReadPrompt(b"", len(written) // BYTES_PER_TOKEN)
    try:
        return read_prompt(seen, seen.model)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        # The engine refuses it, in its own words.
        return ReadPrompt(b"", size // BYTES_PER_TOKEN)


def token_question(seen: BodyFields) -> TokenQuestion | None:
    """Return what an engine is to be asked for the tokens of a prompt; None where it cannot be:
    only /v1/chat/completions and /v1/completions can."""
    salt = _text(seen.cache_salt)
    if memoryview(seen.messages) and not memoryview(seen.system):
        body = b"".join(
            b'"%b":%b,' % (name.encode(), bytes(raw))
            for name in ("messages", "tools", "chat_template_kwargs")
            if memoryview(raw := getattr(seen, name))
        )
        named = b'{%b"model":%b}' % (body, msgspec.json.encode(seen.model))
        return TokenQuestion(seen.model, named, salt=salt)
    if not memoryview(seen.prompt):
        return None
    try:
        prompt = msgspec.json.decode(seen.prompt)
    except (msgspec.DecodeError, RecursionError):
        return None
    if isinstance(prompt, str):
        return TokenQuestion(
            seen.model, msgspec.json.encode({"model": seen.model, "prompt": prompt}), salt=salt
        )
    if isinstance(prompt, list) and all(type(token) is int and token >= 0 for token in prompt):
        return TokenQuestion(seen.model, tokens=tuple(prompt), salt=salt)
    return None


def _seed(seen: BodyFields) -> int:
    """Return what the hashes begin with: engines keep models, adapters and salts apart."""
    name = seen.model.encode()
    salt = memoryview(seen.cache_salt)
    if not salt:
        return xxhash.xxh3_64_intdigest(name)
    return xxhash.xxh3_64_intdigest(b"%b\0%b" % (name, _text(seen.cache_salt).encode()))


def _text(raw: msgspec.Raw) -> str:
    """Return the string that *raw* is; empty where it is none."""
    if not memoryview(raw):
        return ""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return ""
    return value if isinstance(value, str) else ""


def _session(sessions: SessionSources, seen: BodyFields, fields: dict[bytes, bytes]) -> str | None:
    named = sessions.in_headers(fields)
    if named is None and (seen.prompt_cache_key or seen.user or seen.metadata):
        named = sessions.in_body(seen.prompt_cache_key, seen.user, seen.metadata)
    return named


_USUAL_SESSIONS = SessionSources()


def _owner(balancer: Balancer, seen: BodyFields, model: str) -> str:
    """Return the replica of *model* that keeps the response that is continued; empty where it is
    unknown: then any may say so."""
    previous = seen.previous_response_id
    replica = balancer.owner_of(previous) if isinstance(previous, str) else None
    return replica.name if replica is not None and model in replica.models else ""
