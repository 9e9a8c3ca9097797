"""What OpenAPI promises of /chat holds for anything that is sent."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chat_backend.api import ChatApi
from chat_backend.chat_settings import ChatSettings
from chat_backend.documentation import ERROR_DOCUMENTATION
from chat_backend.failures import failure_of
from chat_backend.messages import engine_body, read_chat_request
from servekit.errors.tree import RequestError

SETTINGS = ChatSettings()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
near_requests = st.fixed_dictionaries(
    {},
    optional={
        "message": st.text() | json_values,
        "max_tokens": st.integers() | json_values,
        "temperature": st.floats() | json_values,
        "history": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text()}
            )
        )
        | json_values,
        "stream": st.booleans() | json_values,
    },
)


@given(body=near_requests | json_values)
def test_a_body_is_a_request_or_a_documented_refusal(body: Any) -> None:
    """No body makes a 500."""
    try:
        request = read_chat_request(json.dumps(body), SETTINGS)
    except RequestError as error:
        assert failure_of(error).status in ERROR_DOCUMENTATION
        return
    sent = json.loads(engine_body(request, SETTINGS))
    assert sent["messages"][-1] == {"role": "user", "content": request.message}


@given(body=st.binary())
def test_bytes_are_a_request_or_a_documented_refusal(body: bytes) -> None:
    """Not even those that are no text."""
    try:
        read_chat_request(body, SETTINGS)
    except RequestError as error:
        assert failure_of(error).status in (400, 422)


def test_the_documentation_is_whole() -> None:
    """Every reference is resolved, and the fields are those that are decoded."""
    openapi = ChatApi(SETTINGS, now=lambda: 0.0).application().openapi()

    chat = openapi["paths"]["/chat"]["post"]
    body = chat["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"message", "max_tokens", "temperature", "history", "stream"}
    assert body["required"] == ["message"]
    assert "$ref" not in json.dumps(chat)
    assert {"200", "400", "413", "422", "429", "503", "504"} <= set(chat["responses"])
