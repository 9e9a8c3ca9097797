"""A secret is used, and shown nowhere."""

import copy
import dataclasses
import io
import json
import logging
import os
import pickle
import pprint
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import structlog
import yaml
from hypothesis import given
from hypothesis import strategies as st

from servekit.secrets.secret import Secret

CANARY = "canary-7f3a9b-canary"


@dataclasses.dataclass(frozen=True)
class Holder:
    """What settings and clients are: a value with a secret in it."""

    token: Secret


def _structlog(secret: Secret) -> str:
    event = {"event": "x", "token": secret, "all": Holder(secret)}
    return str(structlog.processors.JSONRenderer()(None, "info", event))


def _logging(secret: Secret) -> str:
    stream = io.StringIO()
    record = logging.makeLogRecord({"msg": "%s %r", "args": (secret, {"token": secret})})
    logging.StreamHandler(stream).emit(record)
    return stream.getvalue()


def _traceback_with_locals(secret: Secret) -> str:
    try:
        raise ValueError(secret)
    except ValueError as error:
        return "".join(
            traceback.TracebackException.from_exception(error, capture_locals=True).format()
        )


SHOWN: dict[str, Callable[[Secret], str]] = {
    "str": str,
    "repr": repr,
    "f-string": lambda secret: f"{secret} {secret!r} {secret!s} {secret!a} {secret:>40}",
    "percent": lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
    "str.format": lambda secret: "{} {!r}".format(secret, secret),  # noqa: UP032
    "in a dataclass": lambda secret: repr(Holder(secret)),
    "asdict": lambda secret: repr(dataclasses.asdict(Holder(secret))),
    "in containers": lambda secret: repr([{"token": (secret,)}]),
    "pprint": lambda secret: pprint.pformat({"token": secret}),
    "dir": lambda secret: repr({name: repr(getattr(secret, name)) for name in dir(secret)
                               if name not in ("_Secret__value", "__getstate__")}),
    "logging": _logging,
    "structlog": _structlog,
    "traceback": _traceback_with_locals,
    "json with default=str": lambda secret: json.dumps({"token": secret}, default=str),
    "copy": lambda secret: repr([copy.copy(secret), copy.deepcopy(Holder(secret))]),
}  # fmt: skip

REFUSED: dict[str, Callable[[Any], Any]] = {
    "pickle": pickle.dumps,
    "pickle, oldest": lambda secret: pickle.dumps(secret, 0),
    "json": json.dumps,
    "json with vars": lambda secret: json.dumps(secret, default=vars),
    "msgspec json": msgspec.json.encode,
    "msgspec msgpack": msgspec.msgpack.encode,
    "msgspec builtins": msgspec.to_builtins,
    "yaml": yaml.dump,
    "yaml safe": yaml.safe_dump,
    "join": lambda secret: "".join(["a", secret]),
    "plus": lambda secret: "Bearer " + secret,
    "encode": lambda secret: bytes(secret),
    "iterate": lambda secret: list(secret),
    "argv": lambda secret: subprocess.run([sys.executable, "-c", "", secret], check=False),  # noqa: S603
    "child's environment": lambda secret: subprocess.run(
        [sys.executable, "-c", ""],
        env={"TOKEN": secret},
        check=False,
    ),
    "environ": lambda secret: os.environ.update(TOKEN=secret),
    "write": lambda secret: io.StringIO().write(secret),
    "change": lambda secret: setattr(secret, "value", "x"),
    "delete": lambda secret: delattr(secret, "_Secret__value"),
}


@pytest.mark.parametrize("how", SHOWN)
def test_a_secret_shows_as_a_mask(how: str) -> None:
    """Whatever prints, formats or logs it."""
    shown = SHOWN[how](Secret(CANARY))

    assert "***" in shown
    assert "canary" not in shown


@pytest.mark.parametrize("how", REFUSED)
def test_a_secret_is_not_serialised(how: str) -> None:
    """What would carry it elsewhere raises, and the error does not quote it."""
    with pytest.raises((TypeError, AttributeError, yaml.YAMLError)) as refusal:
        REFUSED[how](Secret(CANARY))

    assert "canary" not in str(refusal.value)


@given(value=st.text())
def test_a_secret_is_what_was_put_in(value: str) -> None:
    """Any text, to the character; equal ones are equal, and an empty one is false."""
    secret = Secret(value)

    assert secret.reveal() == value
    assert secret == Secret(value)
    assert hash(secret) == hash(Secret(value))
    assert secret != value
    assert bool(secret) is bool(value)
    assert secret.matches(value)
    assert not secret.matches(value + "x")


def test_a_lone_surrogate_is_compared() -> None:
    """A header's raw bytes arrive as surrogates; they are a wrong key, not an exception."""
    assert not Secret("kéy").matches("k\udce9y")


def test_only_text_is_a_secret() -> None:
    """The error names the type, not the value."""
    with pytest.raises(TypeError, match="not bytes") as refusal:
        Secret(CANARY.encode())  # type: ignore[arg-type]

    assert "canary" not in str(refusal.value)
