"""A Pub/Sub message of Cloud Build's topic -> the build that it is about.  Pure."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from google.cloud.devtools.cloudbuild_v1 import Build
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]

from servekit.errors.tree import RequestInvalid

# A build that ended in one of these needs somebody.  The seed forgot the last two.
FAILURES = frozenset(
    {
        Build.Status.FAILURE,
        Build.Status.TIMEOUT,
        Build.Status.INTERNAL_ERROR,
        Build.Status.EXPIRED,
    }
)


def read_event(data: object) -> Build:
    """Return the build in an event's *data*: a CloudEvent's, or a legacy background event's.

    Raises:
        RequestInvalid: there is no build in it; to deliver it again would not help.
    """
    if not isinstance(data, Mapping):
        raise RequestInvalid("the event has no data object")
    # A CloudEvent wraps the message, a background event is the message.
    message = data.get("message", data)
    if not isinstance(message, Mapping) or not isinstance(message.get("data"), str):
        raise RequestInvalid("the event carries no Pub/Sub message with data")
    return read_build(_decode(message["data"]))


def read_build(text: bytes) -> Build:
    """Return the build in *text*, Cloud Build's JSON.

    Raises:
        RequestInvalid: it is none.
    """
    try:
        said = json.loads(text)
        build: Build = Build.from_json(text, ignore_unknown_fields=True)
    except (ValueError, TypeError, ParseError) as error:
        raise RequestInvalid(f"the message is no build: {_first_line(error)}") from error
    if not isinstance(said, dict) or not build.id:
        raise RequestInvalid("the message is a build without an id")
    return build


def failing_step(build: Build) -> str:
    """Return the id, or name, of the step that failed; empty where none did."""
    for number, step in enumerate(build.steps):
        if step.status in FAILURES:
            return step.id or step.name or f"step {number}"
    return ""


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestInvalid(f"the message's data is not base64: {error}") from error


def _first_line(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
