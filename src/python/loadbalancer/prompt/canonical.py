"""The prompt of a request, in the order and the form in which an engine reads it.  Pure.

Two requests for which a chat template writes the same begin with the same bytes here, however their
JSON is spaced, ordered and escaped, and whichever API they use: tools, then the system prompt or
instructions, then the messages.  An image is not its base64: it takes as many bytes as its tokens
would as text, and they follow from its hash.
"""

from array import array

import msgspec

from loadbalancer.prompt.media import Media, media_of

# A token of English is about four bytes; a policy only compares.
BYTES_PER_TOKEN = 4
# As long as what templates write around a message, beside its role; no text has it.
_AROUND = "\0<|end|>\n<|"
# Media beyond this fit no context; they are told apart, and take no room.
_MOST_MEDIA_TOKENS = 1 << 18

_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode

# Where a part of a message keeps what is no text.
_SOURCES = ("image_url", "audio_url", "video_url", "input_audio", "source", "file", "image_embeds")
_TEXTS = ("text", "input_text", "output_text", "refusal", "thinking", "reasoning_text")


class PromptFields(msgspec.Struct, frozen=True):
    """The fields of a body that an engine makes its prompt of, as they were written.

    Attributes:
        system: Anthropic's; instructions: those of /v1/responses.
        input: what /v1/responses and /v1/embeddings call the conversation.
    """

    prompt: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    system: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    documents: msgspec.Raw = msgspec.Raw()
    chat_template_kwargs: msgspec.Raw = msgspec.Raw()


class ReadPrompt(msgspec.Struct, frozen=True):
    """What an engine reads.

    Attributes:
        content: the bytes to hash, about four for each token.
        text_tokens, media_tokens: estimates.
        token_ids: tokens that the client sent as such (count).
    """

    content: bytes
    text_tokens: int
    media_tokens: int = 0
    token_ids: int = 0


def read_prompt(fields: PromptFields, model: str) -> ReadPrompt:
    """Return the prompt of *fields*, for *model*.

    Raises:
        msgspec.DecodeError, RecursionError: a field is not JSON, or is nested too deeply.
    """
    writer = _Writer(model)
    writer.tools(_value(fields.tools))
    for raw in (fields.chat_template_kwargs, fields.documents):
        if raw:
            writer.other(_value(raw))
    for raw in (fields.system, fields.instructions):
        if raw and (said := _value(raw)) is not None:
            writer.role("system")
            writer.content(said)
    conversation = _value(fields.messages)
    if conversation is None:
        conversation = _value(fields.input)
    writer.conversation(conversation)
    writer.plain(_value(fields.prompt))
    return writer.prompt()


def _value(raw: msgspec.Raw) -> object:
    return _decode(raw) if memoryview(raw) else None


class _Writer:
    """Writes a prompt down, piece by piece."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._pieces: list[bytes] = []
        # Text that was written since the last piece of bytes.
        self._texts: list[str] = []
        self._media_tokens = 0
        self._ids = 0

    def prompt(self) -> ReadPrompt:
        self._end_text()
        content = b"".join(self._pieces)
        tokens = len(content) // BYTES_PER_TOKEN - self._media_tokens - self._ids
        return ReadPrompt(content, max(0, tokens), self._media_tokens, self._ids)

    # Whole fields.

    def tools(self, tools: object) -> None:
        if not isinstance(tools, list):
            return
        for tool in tools:
            self.other(_tool(tool))

    def conversation(self, said: object) -> None:
        """Write messages, or the items of /v1/responses; text alone is the user's."""
        if isinstance(said, list) and all(isinstance(one, dict) for one in said):
            for one in said:
                content, role = one.get("content"), one.get("role")
                # What nearly all messages are.
                if len(one) == 2 and type(content) is str and type(role) is str:
                    self._texts += (role, _AROUND, content)
                else:
                    self._message(one)
        elif isinstance(said, str):
            self._message({"role": "user", "content": said})
        else:
            self.plain(said)

    def plain(self, prompt: object) -> None:
        """Write text or token ids, or a list of either, without a template."""
        if isinstance(prompt, str):
            self._text(prompt)
        elif isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
            self._tokens(prompt)
        elif isinstance(prompt, list):
            for one in prompt:
                self.plain(one)
        elif prompt is not None:
            self.other(prompt)

    def other(self, value: object) -> None:
        """Write something that templates show as JSON."""
        if value is not None:
            self._bytes(_encode_sorted(value))

    def role(self, role: object) -> None:
        self._texts += (role if isinstance(role, str) else "", _AROUND)

    def content(self, content: object) -> None:
        if isinstance(content, str):
            self._text(content)
        elif isinstance(content, list):
            for part in content:
                self._part(part)
        elif content is not None:
            self.other(content)

    # Parts.

    def _message(self, message: dict[str, object]) -> None:
        kind = message.get("type")
        if kind in ("function_call", "function_call_output", "reasoning"):
            self._item(str(kind), message)
            return
        self.role(message.get("role"))
        for key in ("name", "reasoning", "reasoning_content"):
            self.content(message.get(key))
        self.content(message.get("content"))
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            self._call(function if isinstance(function, dict) else {"arguments": call})

    def _item(self, kind: str, item: dict[str, object]) -> None:
        """Write an item of /v1/responses as the message that the engine makes of it."""
        if kind == "function_call":
            self.role("assistant")
            self._call(item)
        elif kind == "reasoning":
            self.role("assistant")
            self.content(item.get("content") or item.get("summary"))
        else:
            self.role("tool")
            self.content(item.get("output"))

    def _call(self, function: dict[str, object]) -> None:
        """Write a call: its arguments are JSON in a string, which engines take apart."""
        self.content(function.get("name"))
        arguments = function.get("arguments", function.get("input"))
        if isinstance(arguments, str):
            try:
                arguments = _decode(arguments)
            except (msgspec.DecodeError, RecursionError):
                self._text(str(arguments))
                return
        self.other(arguments)

    def _part(self, part: object) -> None:
        if not isinstance(part, dict):
            self.content(part if isinstance(part, str) else None)
            return
        for key in _TEXTS:
            text = part.get(key)
            if isinstance(text, str):
                self._text(text)
                return
        kind = str(part.get("type"))
        if kind == "tool_use":
            self._call(part)
        elif kind == "tool_result":
            self.role("tool")
            self.content(part.get("content"))
        elif (source := _source(part)) is not None:
            self._media(media_of(kind, source, self._model))
        else:
            self.other({key: part[key] for key in part if key != "cache_control"})

    def _text(self, text: str) -> None:
        self._texts.append(text)

    def _bytes(self, piece: bytes) -> None:
        self._end_text()
        self._pieces.append(piece)

    def _end_text(self) -> None:
        if self._texts:
            self._pieces.append("".join(self._texts).encode("utf-8", "surrogatepass"))
            self._texts.clear()

    def _tokens(self, tokens: list[object]) -> None:
        ids = [token & 0xFFFFFFFF for token in tokens if isinstance(token, int)]
        self._ids += len(ids)
        self._bytes(array("I", ids).tobytes())

    def _media(self, media: Media) -> None:
        tokens = max(2, min(media.tokens, _MOST_MEDIA_TOKENS - self._media_tokens)) // 2 * 2
        self._media_tokens += tokens
        # Eight bytes are two tokens.
        self._bytes(media.identity.to_bytes(8, "little") * (tokens // 2))


def _tool(tool: object) -> object:
    """Return a tool as all APIs mean it: a name, what it does, and the schema of its arguments."""
    if not isinstance(tool, dict):
        return tool
    function = tool.get("function", tool)
    if not isinstance(function, dict) or "name" not in function:
        return tool
    schema = function.get("parameters", function.get("input_schema"))
    return [function["name"], function.get("description"), schema]


def _source(part: dict[str, object]) -> str | None:
    """Return the URL, or the base64, of a part that is no text; None where it has none."""
    for key in _SOURCES:
        value = part.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, dict):
            for inner in ("url", "data", "file_data", "file_id"):
                source = value.get(inner)
                if isinstance(source, str):
                    return source
    return None
