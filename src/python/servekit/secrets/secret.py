"""A value that is used and never shown.  Pure."""

import hmac
from typing import Any, NoReturn, Self, final

MASK = "***"


@final
class Secret:
    """A token, a key, a password, or a URL that holds one.

    It shows as `***` in repr, str, format and therefore in every log and traceback; it cannot be
    pickled, encoded as JSON or msgpack, joined to text, or put into argv or an environment.
    `reveal` is the one way to the value: call it in the line that sends it, and keep no copy.
    An empty secret is false, which is how "not set" is written.

        headers = {"Authorization": f"Bearer {settings.hf_token.reveal()}"}
    """

    __slots__ = ("__value",)

    def __init__(self, value: str = "") -> None:
        if not isinstance(value, str):
            # The value stays out of the message: it may well be the secret in another type.
            raise TypeError(f"a Secret holds str, not {type(value).__name__}")
        object.__setattr__(self, "_Secret__value", value)

    def reveal(self) -> str:
        """Return the value itself."""
        value: str = object.__getattribute__(self, "_Secret__value")
        return value

    def matches(self, offered: str) -> bool:
        """Return whether *offered* is the value, in a time that does not tell how much of it is."""
        # compare_digest takes only ASCII as text; surrogates stand for bytes of a raw header.
        ours, theirs = (text.encode("utf-8", "surrogatepass") for text in (self.reveal(), offered))
        return hmac.compare_digest(ours, theirs)

    def __bool__(self) -> bool:
        return bool(self.reveal())

    def __eq__(self, other: object) -> bool:
        return self.matches(other.reveal()) if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self.reveal()))

    def __repr__(self) -> str:
        return f"Secret({MASK if self else 'not set'})"

    def __str__(self) -> str:
        return MASK if self else ""

    def __format__(self, spec: str) -> str:
        return str(self)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, _protocol: Any) -> NoReturn:
        raise TypeError("a Secret cannot be pickled; hand it over by a file or a pipe")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a Secret has no state to show")
