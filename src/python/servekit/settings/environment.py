"""Environment variables -> a typed value.  Pure: the environment is an argument."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

import msgspec

from servekit.errors.tree import SettingInvalid
from servekit.secrets.masking import masked
from servekit.secrets.secret import Secret

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})

# A tuple that is written as a shell's words, so that one of them may hold a blank.
ShellWords = Annotated[tuple[str, ...], msgspec.Meta(extra={"written": "words of a shell"})]


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename=str.upper):
    """What a program reads from its environment: a field is the variable of its name in capitals.

    A tuple is written with commas, and `ShellWords` as in a shell; a bool is 1 or 0, or a word that
    people write for them; a `Secret` is for whatever must not be shown.  A type of one's own has
    `from_setting(text)`.  `retired` maps a name that is gone to its replacement; both are accepted,
    and the old one is warned about.  `shared` are variables that a child process reads as well.

        class BalancerSettings(Settings, frozen=True):
            metrics_poll_interval: float = 0.2
            vllm_endpoints: tuple[str, ...] = ()
    """

    retired: ClassVar[Mapping[str, str]] = {}
    shared: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def private_variables(cls) -> frozenset[str]:
        """Return every variable that is for this program, and not for a child of it."""
        names = {field.encode_name for field in msgspec.structs.fields(cls)}
        return frozenset(names | cls.retired.keys()) - cls.shared

    @classmethod
    def secret_variables(cls) -> frozenset[str]:
        """Return every variable that holds a secret."""
        fields = msgspec.structs.fields(cls)
        names = {field.encode_name for field in fields if field.type is Secret}
        return frozenset(names | {old for old, new in cls.retired.items() if new in names})


SettingsT = TypeVar("SettingsT", bound=Settings)


def read_settings(
    kind: type[SettingsT], environ: Mapping[str, str], warn: Callable[[str], None]
) -> SettingsT:
    """Return *kind* as *environ* sets it.  An empty variable counts as unset.

    Raises:
        SettingInvalid: a value does not fit its type, or a required variable is not set.
    """
    given = {name: value for name, value in environ.items() if value != ""}
    for old, new in kind.retired.items():
        if old in given:
            warn(f"{old} is retired; set {new} instead")
            given.setdefault(new, given[old])
    fields = msgspec.structs.fields(kind)
    raw = {
        field.encode_name: _prepared(field, given[field.encode_name])
        for field in fields
        if field.encode_name in given
    }
    for field in fields:
        _check(field, raw)
    return msgspec.convert(raw, kind, strict=False, dec_hook=_decoded)


def _prepared(field: msgspec.structs.FieldInfo, text: str) -> Any:
    """Return *text* as msgspec takes it for the type of *field*."""
    kind, name = field.type, field.encode_name
    if kind is bool:
        if text.lower() not in _YES | _NO:
            raise SettingInvalid(f"{name} is {_shown(text)}; use 1 or 0")
        return text.lower() in _YES
    if kind == ShellWords:
        try:
            return shlex.split(text)
        except ValueError as error:
            raise SettingInvalid(f"{name} is {_shown(text)}: {error}; close the quotes") from error
    if get_origin(kind) is tuple:
        return [item.strip() for item in text.split(",") if item.strip()]
    if get_origin(kind) is Literal and text not in (choices := [str(a) for a in get_args(kind)]):
        raise SettingInvalid(f"{name} is {_shown(text)}; use {', '.join(choices)}")
    return text


def _decoded(kind: Any, value: Any) -> Any:
    if isinstance(kind, UnionType):
        kind = next(option for option in get_args(kind) if option is not type(None))
    if kind in (Secret, Path):
        return kind(value)
    if hasattr(kind, "from_setting"):
        return kind.from_setting(value)
    raise NotImplementedError(f"no setting has the type {kind.__name__}")


def _check(field: msgspec.structs.FieldInfo, raw: Mapping[str, object]) -> None:
    name = field.encode_name
    if name not in raw:
        if field.required:
            raise SettingInvalid(f"{name} is not set; it is required")
        return
    try:
        msgspec.convert(raw[name], field.type, strict=False, dec_hook=_decoded)
    except msgspec.ValidationError as error:
        reason = str(error).rstrip(".").lower()
        reason, shown = masked(reason), _shown(raw[name])
        raise SettingInvalid(f"{name} is {shown}: {reason}; correct or unset it") from None


def _shown(value: object) -> str:
    """What an error may say of a value: a token in the wrong variable stays one."""
    return repr(masked(value) if isinstance(value, str) else value)
