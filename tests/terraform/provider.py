"""A Terraform provider that knows its schema and has no API behind it."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import msgspec

from tests.terraform.protocol import terraform_messages
from tests.terraform.schemas import Block, ProviderSchema, cty_type

_NESTING = {"single": 1, "list": 2, "set": 3, "map": 4, "group": 5}

# How Terraform writes "known after apply" in msgpack.
UNKNOWN = msgspec.msgpack.Ext(0, b"")

# Optional, and filled in by the API where they are left out; other resources refer to them.
_REFERRED_TO = ("name", "private_ip")

Fill = Callable[[str, dict[str, Any]], Any]


class SchemaProvider:
    """Answers each call of the protocol from *schema* alone.  An apply is refused.

    *made_up* plans have made-up ids in place of "known after apply", so that a plan says which
    resource refers to which.
    """

    def __init__(self, schema: ProviderSchema, *, made_up: bool = False) -> None:
        self._schema = schema
        self._made_up = made_up
        self._numbers = count(1)
        self._types = terraform_messages()

    def methods(self) -> dict[str, tuple[str, Callable[[Any], Any]]]:
        """Return the type of the request and the function that answers it, by name of the call."""
        answer_nothing = ("Empty", lambda _: self._types["Empty"]())
        return {
            "GetProviderSchema": ("Empty", self._schemas),
            "ValidateProviderConfig": answer_nothing,
            "ValidateResourceConfig": answer_nothing,
            "ValidateDataResourceConfig": answer_nothing,
            "ConfigureProvider": answer_nothing,
            "StopProvider": answer_nothing,
            "UpgradeResourceState": ("UpgradeRequest", self._upgrade),
            "ReadResource": ("ReadRequest", self._read),
            "PlanResourceChange": ("PlanRequest", self._plan),
            "ReadDataSource": ("ReadDataRequest", self._read_data),
        }

    def handler(self) -> Any:
        return grpc.method_handlers_generic_handler(
            "tfplugin6.Provider",
            {
                name: grpc.unary_unary_rpc_method_handler(
                    lambda request, _, answer=answer: answer(request),
                    request_deserializer=self._types[request].FromString,
                    response_serializer=lambda message: message.SerializeToString(),
                )
                for name, (request, answer) in self.methods().items()
            },
        )

    def _schemas(self, _: Any) -> Any:
        named = self._types["NamedSchema"]
        return self._types["Schemas"](
            provider=self._message(self._schema["provider"]),
            resource_schemas=[
                named(key=name, value=self._message(block))
                for name, block in self._schema["resource_schemas"].items()
            ],
            data_source_schemas=[
                named(key=name, value=self._message(block))
                for name, block in self._schema["data_source_schemas"].items()
            ],
        )

    def _message(self, block: Block) -> Any:
        return self._types["Schema"](version=0, block=self._block(block, in_block=False))

    def _block(self, block: Block, *, in_block: bool) -> Any:
        return self._types["Block"](
            attributes=[
                self._types["Attribute"](
                    name=name,
                    type=json.dumps(cty_type(attribute, in_block=in_block)).encode(),
                    required=attribute["required"],
                    optional=attribute["optional"],
                    computed=attribute["computed"],
                )
                for name, attribute in block["attributes"].items()
            ],
            block_types=[
                self._types["NestedBlock"](
                    type_name=name,
                    block=self._block(nested["block"], in_block=True),
                    nesting=_NESTING[nested["nesting_mode"]],
                    # Terraform takes no bounds for a single block.
                    min_items=0 if nested["nesting_mode"] == "single" else nested["min_items"],
                    max_items=nested["max_items"],
                )
                for name, nested in block["block_types"].items()
            ],
        )

    def _upgrade(self, request: Any) -> Any:
        state = self._types["DynamicValue"](json=request.raw_state.json)
        return self._types["Upgraded"](upgraded_state=state)

    def _read(self, request: Any) -> Any:
        return self._types["Read"](new_state=request.current_state)

    def _plan(self, request: Any) -> Any:
        block = self._schema["resource_schemas"][request.type_name]
        fill = self._made_up_value(request.type_name) if self._made_up else lambda *_: UNKNOWN
        planned = self._filled(request.proposed_new_state, block, fill)
        return self._types["Planned"](planned_state=planned)

    def _read_data(self, request: Any) -> Any:
        block = self._schema["data_source_schemas"][request.type_name]
        return self._types["ReadData"](state=self._filled(request.config, block, _made_up))

    def _made_up_value(self, kind: str) -> Fill:
        number = next(self._numbers)

        def fill(name: str, attribute: Mapping[str, Any]) -> Any:
            return f"{kind}-{number}-{name}" if attribute["type"] == "string" else UNKNOWN

        return fill

    def _filled(self, value: Any, block: Block, fill: Fill) -> Any:
        """Give what only the real provider would know; an object that is to go stays null."""
        fields = msgspec.msgpack.decode(value.msgpack)
        if fields is None:
            return self._types["DynamicValue"](msgpack=value.msgpack)
        for name, attribute in block["attributes"].items():
            chosen_by_us = name == "id" or not attribute["optional"]
            chosen_by_us |= self._made_up and name in _REFERRED_TO
            if attribute["computed"] and chosen_by_us and fields.get(name) is None:
                fields[name] = fill(name, attribute)
        return self._types["DynamicValue"](msgpack=msgspec.msgpack.encode(fields))


def _made_up(name: str, attribute: Mapping[str, Any]) -> str | list[str] | None:
    if attribute["type"] == "string":
        return f"made-up-{name}"
    if attribute["type"] == ["list", "string"]:
        # As many as a configuration may want to take: zones, subnets.
        return [f"made-up-{name}-{number}" for number in range(1, 5)]
    return None


@contextmanager
def serving(
    schemas: Mapping[str, ProviderSchema], folder: Path, *, made_up: bool = False
) -> Iterator[str]:
    """Serve providers, by name, on sockets in *folder*; give the value of TF_REATTACH_PROVIDERS."""
    servers = []
    attached = {}
    for name, schema in schemas.items():
        server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
        server.add_generic_rpc_handlers((SchemaProvider(schema, made_up=made_up).handler(),))
        address = str(folder / f"{name}.sock")
        server.add_insecure_port(f"unix:{address}")
        server.start()
        servers.append(server)
        attached[f"registry.terraform.io/hashicorp/{name}"] = {
            "Protocol": "grpc",
            "ProtocolVersion": 6,
            "Pid": os.getpid(),
            "Test": True,
            "Addr": {"Network": "unix", "String": address},
        }
    try:
        yield json.dumps(attached)
    finally:
        for server in servers:
            server.stop(grace=None).wait()
