"""A provider of schema alone: what it says of values that nobody has set."""

from typing import Any

import msgspec
import pytest

from tests.terraform.protocol import terraform_messages
from tests.terraform.provider import UNKNOWN, SchemaProvider
from tests.terraform.schemas import cty_type, narrowed, provider_names, read_schema

TYPES = terraform_messages()


def attribute(kind: Any, *, optional: bool = False, computed: bool = True) -> dict[str, Any]:
    return {"type": kind, "required": False, "optional": optional, "computed": computed}


SUBNET = {
    "attributes": {
        "id": attribute("string", optional=True),
        "arn": attribute("string"),
        "tags": attribute(["map", "string"], optional=True),
        "names": attribute(["list", "string"]),
        "count": attribute("number"),
    },
    "block_types": {},
}

SCHEMA = {
    "provider": {"attributes": {}, "block_types": {}},
    "resource_schemas": {"aws_subnet": SUBNET},
    "data_source_schemas": {"aws_subnets": SUBNET},
}


def value(fields: object) -> Any:
    return TYPES["DynamicValue"](msgpack=msgspec.msgpack.encode(fields))


def test_a_plan_leaves_open_what_only_the_api_decides() -> None:
    """Ids and computed attributes become unknown; what was set, or may be left out, stays."""
    request = TYPES["PlanRequest"](
        type_name="aws_subnet",
        proposed_new_state=value({"id": None, "arn": None, "tags": None, "names": ["a"]}),
    )

    answer = SchemaProvider(SCHEMA).methods()["PlanResourceChange"][1](request)

    planned = msgspec.msgpack.decode(answer.planned_state.msgpack)
    assert (planned["id"], planned["arn"]) == (UNKNOWN, UNKNOWN)
    assert (planned["tags"], planned["names"]) == (None, ["a"])


def test_a_plan_to_destroy_stays_null() -> None:
    """Nothing is filled in where the object is to go."""
    request = TYPES["PlanRequest"](type_name="aws_subnet", proposed_new_state=value(None))

    answer = SchemaProvider(SCHEMA).methods()["PlanResourceChange"][1](request)

    assert msgspec.msgpack.decode(answer.planned_state.msgpack) is None


def test_a_data_source_answers_with_made_up_text() -> None:
    """A string, and enough strings in a list; no number is invented."""
    request = TYPES["ReadDataRequest"](type_name="aws_subnets", config=value({"id": "mine"}))

    answer = SchemaProvider(SCHEMA).methods()["ReadDataSource"][1](request)

    state = msgspec.msgpack.decode(answer.state.msgpack)
    assert (state["id"], state["arn"], state["count"]) == ("mine", "made-up-arn", None)
    assert len(state["names"]) == 4


@pytest.mark.parametrize(
    ("kind", "in_block", "expected"),
    [
        ("dynamic", True, "string"),
        ("dynamic", False, "dynamic"),
        (["list", "dynamic"], True, ["list", "string"]),
        (["object", {"a": "dynamic"}], True, ["object", {"a": "string"}]),
    ],
)
def test_only_a_computed_attribute_of_a_resource_may_be_of_any_type(
    kind: Any, in_block: bool, expected: Any
) -> None:
    """Terraform refuses a schema with a dynamic type inside a set or a block."""
    assert cty_type(attribute(kind), in_block=in_block) == expected


def test_a_schema_is_narrowed_to_what_the_configuration_names() -> None:
    """Whole words count: `aws_subnets` does not bring `aws_subnet`."""
    kept = narrowed(SCHEMA, ['data "aws_subnets" "all" {}'])

    assert list(kept["data_source_schemas"]) == ["aws_subnets"]
    assert kept["resource_schemas"] == {}


@pytest.mark.parametrize("provider", provider_names())
def test_every_schema_can_be_served(provider: str) -> None:
    """All that was taken from the bindings makes valid messages."""
    schema = read_schema(provider)

    served = SchemaProvider(narrowed(schema, schema["resource_schemas"])).methods()

    answer = served["GetProviderSchema"][1](None)
    assert len(answer.resource_schemas) == len(schema["resource_schemas"]) > 1000
