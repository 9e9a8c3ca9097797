"""The model that a form names: audio is sent as multipart/form-data, not as JSON.  Pure."""

import re

from servekit.errors.tree import RequestInvalid

# OpenAI's form for a transcription has about a dozen fields.
MOST_FIELDS = 64
# RFC 2046, section 5.1.1: a boundary has at most 70 characters, two dashes before it.
_BOUNDARY = re.compile(rb"--[^\r\n]{1,70}(?=[ \t]*\r\n)")
_NAMED_MODEL = re.compile(
    rb"content-disposition:[ \t]*form-data;(?:[^\r\n]*;)?[ \t]*name=\"?model\"?[ \t]*(?:;|$)",
    re.IGNORECASE | re.MULTILINE,
)
_MOST_FIELD_HEAD = 1024


def is_form(body: bytes) -> bool:
    """Whether *body* is a form; no JSON begins with a dash and another."""
    return body.startswith(b"--")


def model_in_form(body: bytes) -> str:
    """Return the model that *body* names; empty where it names none.

    Raises:
        RequestInvalid: it is not multipart/form-data.
    """
    first = _BOUNDARY.match(body)
    if first is None:
        raise RequestInvalid("the body is not multipart/form-data; it begins with no boundary")
    boundary = b"\r\n" + first[0]
    start = first.end()
    for _ in range(MOST_FIELDS):
        end = body.find(boundary, start)
        if end < 0:
            return ""
        value = _value_if_model(body, start, end)
        if value is not None:
            return value
        start = end + len(boundary)
    raise RequestInvalid(f"the form has more than {MOST_FIELDS} fields before the one with 'model'")


def _value_if_model(body: bytes, start: int, end: int) -> str | None:
    """Return the value of the field at *start*, if it is the one with the model."""
    blank = body.find(b"\r\n\r\n", start, min(end, start + _MOST_FIELD_HEAD))
    if blank < 0 or _NAMED_MODEL.search(body[start:blank].replace(b"\r\n", b"\n")) is None:
        return None
    try:
        return body[blank + 4 : end].decode()
    except UnicodeDecodeError as error:
        raise RequestInvalid("the form's 'model' is not UTF-8") from error
