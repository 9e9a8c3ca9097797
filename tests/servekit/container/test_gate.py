"""Which requests reach the engine."""

import re
from pathlib import Path

import pytest

from servekit.container.gate import OPEN, ROUTES, STARTUP, STARTUP_METRICS, Gate, read_extra_routes
from servekit.errors.tree import SettingInvalid
from servekit.relay.heads import read_request_head
from servekit.secrets.secret import Secret
from servekit.wire import routes

KEYS = (Secret("k-1"), Secret("k-2"))
SERVED = Path(__file__).parents[2] / "golden/vllm/routes_dev_v0.32.0.txt"


def _status(
    request: str, *headers: str, keys: tuple[Secret, ...] = KEYS, extra: tuple[str, ...] = ()
) -> int:
    """The status of the refusal; 0 where there is none."""
    lines = "".join(f"{line}\r\n" for line in ("Host: e", *headers))
    head = read_request_head(f"{request} HTTP/1.1\r\n{lines}\r\n".encode())
    refusal = Gate(keys, read_extra_routes(extra)).refusal(head)
    return 0 if refusal is None else refusal.status


def _served() -> set[tuple[str, str]]:
    """Method and path of everything that vLLM has, in its development mode."""
    rows = re.findall(r"^(/\S*), Methods: (.*)$", SERVED.read_text(), re.MULTILINE)
    return {(method, path) for path, methods in rows for method in methods.split(", ")}


@pytest.mark.parametrize("path", sorted(set(ROUTES) - OPEN))
def test_nothing_about_a_model_is_answered_without_the_key(path: str) -> None:
    """vLLM itself answers /invocations, /tokenize and others to everybody."""
    method = ROUTES[path][0]

    assert _status(f"{method} {path}") == 401
    assert _status(f"{method} {path}", "Authorization: Bearer wrong") == 401
    assert _status(f"{method} {path}", "Authorization: Bearer ") == 401
    assert _status(f"{method} {path}", "Authorization: Basic k-1") == 401
    assert _status(f"{method} {path}", "Authorization: Bearer k-2") == 0
    assert _status(f"{method} {path}?a=b", "authorization: bearer k-1") == 0
    assert _status(f"{method} {path}", "x-api-key: k-1") == 0
    assert _status(f"{method} {path}", keys=()) == 0


@pytest.mark.parametrize("path", sorted(OPEN))
def test_platforms_ask_without_a_key(path: str) -> None:
    """Health, metrics, version, and how far the start is."""
    assert _status(f"GET {path}") == 0
    assert _status(f"HEAD {path}") == 0
    assert _status(f"DELETE {path}") == 405


def test_of_what_vllm_serves_only_the_list_passes() -> None:
    """With the right key too: a route that ends, pauses or rewrites the engine is for nobody."""
    passed = {
        (method, path)
        for method, path in _served()
        if _status(f"{method} {path.replace('{response_id}', 'resp_1')}", "x-api-key: k-1") == 0
    }

    refused = {path for _, path in _served() - passed}
    assert {"/sleep", "/collective_rpc", "/update_weights", "/abort_requests", "/docs"} <= refused
    assert {"/server_info", "/reset_prefix_cache", "/v1/systemone"} <= refused
    assert {path for _, path in passed} >= {*routes.GENERATE, "/v1/responses/{response_id}"}


@pytest.mark.parametrize(
    "path",
    ["//v1/models", "/v1/models/", "/%761/models", "/v1/../sleep", "/V1/models", "/v1/models%00"],
)
def test_paths_that_another_reader_may_take_for_a_route_do_not_pass(path: str) -> None:
    """What is not letter for letter in the list is not in it."""
    assert _status(f"GET {path}", "x-api-key: k-1") == 404


def test_browser_asks_first_without_a_key() -> None:
    """A preflight request never carries one; it tells nothing."""
    assert _status("OPTIONS /v1/chat/completions") == 0
    assert _status("OPTIONS /sleep") == 404


def test_more_can_be_let_through() -> None:
    """By name and method, and with the key."""
    more = ("POST /sleep", "GET /is_sleeping")

    assert _status("POST /sleep", "x-api-key: k-1", extra=more) == 0
    assert _status("POST /sleep", extra=more) == 401
    assert _status("GET /sleep", "x-api-key: k-1", extra=more) == 405


@pytest.mark.parametrize("text", ["/sleep", "POST", "post /sleep", "POST sleep", "POST /a b"])
def test_extra_route_that_is_none_is_refused(text: str) -> None:
    """In one line, at the start."""
    with pytest.raises(SettingInvalid, match="write METHOD /path"):
        read_extra_routes([text])


def test_own_pages_are_known() -> None:
    """They are the front's, and asked for by probes."""
    assert {STARTUP, STARTUP_METRICS} <= OPEN
