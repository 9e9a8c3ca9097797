"""What a user of each client library writes; run by the Python of an environment that has them.

`programs.py LIBRARY`, with one call a line on stdin as JSON: {"url": …, "api": …, "stream": …}.
Each is answered with a line: {"text": …} for what the user was given in the end, {"raised": …} for
the error that the user saw.  Nothing of ours is imported.
"""

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

LIMIT_S = 20.0
HELLO = [{"role": "user", "content": "hello"}]
Call = Callable[[str, str, bool], str]


def with_openai(url: str, api: str, stream: bool) -> str:
    from openai import OpenAI  # pants: no-infer-dep

    client = OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=LIMIT_S)
    if api == "embeddings":
        return str(len(client.embeddings.create(model="m", input="hello").data))
    if api == "responses":
        made: Any = client.responses.create(model="m", input="hello", stream=stream)
        if not stream:
            return str(made.output_text)
        return "".join(e.delta for e in made if e.type == "response.output_text.delta")
    if api == "completions":
        made = client.completions.create(model="m", prompt="hello", stream=stream)
        return "".join(c.choices[0].text for c in made) if stream else made.choices[0].text
    made = client.chat.completions.create(model="m", messages=HELLO, stream=stream)  # type: ignore
    if stream:
        return "".join(chunk.choices[0].delta.content or "" for chunk in made)
    return str(made.choices[0].message.content)


def with_anthropic(url: str, api: str, stream: bool) -> str:
    from anthropic import Anthropic  # type: ignore[import-not-found] # pants: no-infer-dep

    client = Anthropic(base_url=url, api_key="k", max_retries=0, timeout=LIMIT_S)
    asked: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": HELLO}
    if not stream:
        return str(client.messages.create(**asked).content[0].text)
    if api == "raw events":
        events = client.messages.create(**asked, stream=True)
        deltas = (event.delta for event in events if event.type == "content_block_delta")
        return "".join(delta.text for delta in deltas)
    with client.messages.stream(**asked) as messages:
        return "".join(messages.text_stream)


def with_langchain(url: str, api: str, stream: bool) -> str:
    from langchain_openai import ChatOpenAI  # type: ignore[import-not-found] # pants: no-infer-dep

    chat = ChatOpenAI(
        base_url=f"{url}/v1",
        api_key="k",
        model="m",
        max_retries=0,
        timeout=LIMIT_S,
        use_responses_api=api == "responses",
    )
    if stream:
        return "".join(_text(chunk.content) for chunk in chat.stream("hello"))
    return _text(chat.invoke("hello").content)


def with_litellm(url: str, api: str, stream: bool) -> str:
    import litellm  # type: ignore[import-not-found] # pants: no-infer-dep

    kind, base = ("anthropic", url) if api == "messages" else ("openai", f"{url}/v1")
    made = litellm.completion(
        model=f"{kind}/m",
        api_base=base,
        api_key="k",
        messages=HELLO,
        stream=stream,
        max_tokens=9,
        num_retries=0,
        max_retries=0,
        timeout=LIMIT_S,
    )
    if stream:
        return "".join(chunk.choices[0].delta.content or "" for chunk in made)
    return str(made.choices[0].message.content)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


LIBRARIES: dict[str, Call] = {
    "openai": with_openai,
    "anthropic": with_anthropic,
    "langchain": with_langchain,
    "litellm": with_litellm,
}


def answers(call: Call, lines: Iterable[str]) -> Iterable[dict[str, str]]:
    for line in lines:
        asked = json.loads(line)
        try:
            yield {"text": call(asked["url"], asked["api"], asked["stream"])}
        except Exception as error:  # noqa: BLE001
            yield {"raised": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    for answer in answers(LIBRARIES[sys.argv[1]], sys.stdin):
        print(json.dumps(answer), flush=True)  # noqa: T201
