"""Environment variables -> a typed value.  Pure: the environment is an argument."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, get_origin

import msgspec

from servekit.errors.tree import SettingInvalid
from servekit.secrets.secret import Secret


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename=str.upper):
    """What a program reads from its environment: a field is the variable of its name in capitals.

    A tuple is written with commas; a `Secret` is for whatever must not be shown.  `retired` maps a
    name that is gone to its replacement; both are accepted, and the old one is warned about.

        class BalancerSettings(Settings, frozen=True):
            metrics_poll_interval: float = 0.2
            vllm_endpoints: tuple[str, ...] = ()
    """

    retired: ClassVar[Mapping[str, str]] = {}


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
        field.encode_name: _split_if_tuple(field.type, given[field.encode_name])
        for field in fields
        if field.encode_name in given
    }
    for field in fields:
        _check(field, raw)
    return msgspec.convert(raw, kind, strict=False, dec_hook=_decoded)


def _split_if_tuple(kind: Any, value: str) -> str | list[str]:
    if get_origin(kind) is not tuple:
        return value
    return [item.strip() for item in value.split(",") if item.strip()]


def _decoded(kind: type[Any], value: Any) -> Any:
    if kind is Secret:
        return Secret(value)
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
        raise SettingInvalid(f"{name} is {raw[name]!r}: {reason}; correct or unset it") from error
