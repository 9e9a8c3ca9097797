"""The part of Terraform's plugin protocol 6 that a provider without an API needs.  Pure.

Names and numbers are those of tfplugin6.proto in hashicorp/terraform (docs/plugin-protocol).  What
is left out here is skipped when it is received.
"""

from typing import Any

from tests.support.protobuf import message_types

MESSAGES = {
    "Empty": (),
    "DynamicValue": ("msgpack=1 bytes", "json=2 bytes"),
    "RawState": ("json=1 bytes",),
    "Schema": ("version=1 int64", "block=2 Block"),
    "Block": ("version=1 int64", "attributes=2 *Attribute", "block_types=3 *NestedBlock"),
    "Attribute": (
        "name=1 string",
        "type=2 bytes",
        "required=4 bool",
        "optional=5 bool",
        "computed=6 bool",
    ),
    "NestedBlock": (
        "type_name=1 string",
        "block=2 Block",
        "nesting=3 int64",
        "min_items=4 int64",
        "max_items=5 int64",
    ),
    "NamedSchema": ("key=1 string", "value=2 Schema"),
    "Schemas": (
        "provider=1 Schema",
        "resource_schemas=2 *NamedSchema",
        "data_source_schemas=3 *NamedSchema",
    ),
    "UpgradeRequest": ("type_name=1 string", "raw_state=3 RawState"),
    "Upgraded": ("upgraded_state=1 DynamicValue",),
    "ReadRequest": ("type_name=1 string", "current_state=2 DynamicValue"),
    "Read": ("new_state=1 DynamicValue",),
    "PlanRequest": ("type_name=1 string", "proposed_new_state=3 DynamicValue"),
    "Planned": ("planned_state=1 DynamicValue",),
    "ReadDataRequest": ("type_name=1 string", "config=2 DynamicValue"),
    "ReadData": ("state=1 DynamicValue",),
}


def terraform_messages() -> dict[str, Any]:
    """Return a class per message of MESSAGES."""
    return message_types("tfplugin6", MESSAGES)
