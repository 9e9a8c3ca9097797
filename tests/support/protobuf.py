"""Protocol buffers without generated code: message classes from a table of their fields.  Pure.

A stand-in needs a few fields of a few messages; what its table leaves out is skipped when it is
received, as in any protocol buffer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
}


def message_types(package: str, messages: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return a class per message of *messages*: name -> fields in the form "name=number type".

    A star before a type means repeated.  A map is a repeated message of a key and a value.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"servekit/{package}.proto", package=package, syntax="proto3"
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        message.field.extend(_field(package, field) for field in fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


def _field(package: str, text: str) -> Any:
    name, _, rest = text.partition("=")
    number, kind = rest.split()
    label = _Field.LABEL_REPEATED if kind.startswith("*") else _Field.LABEL_OPTIONAL
    kind = kind.removeprefix("*")
    field = _Field(name=name, number=int(number), label=label)
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
    return field
