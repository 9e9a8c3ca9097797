"""The wire format: what Terraform writes must be understood, and the other way round."""

import msgspec

from tests.terraform.protocol import terraform_messages


def test_messages_have_the_numbers_of_terraform() -> None:
    """Bytes as Terraform 1.11 writes them: field 1 the type, field 3 the proposed state."""
    plan = terraform_messages()["PlanRequest"]

    request = plan.FromString(b"\x0a\x07aws_vpc" + b"\x12\x02\x0a\x00" + b"\x1a\x03\x0a\x01\xc0")

    assert request.type_name == "aws_vpc"
    assert msgspec.msgpack.decode(request.proposed_new_state.msgpack) is None


def test_a_message_survives_the_wire() -> None:
    """A schema that is written and read again says the same."""
    types = terraform_messages()
    attribute = types["Attribute"](name="cidr_block", type=b'"string"', optional=True)
    schema = types["Schema"](block=types["Block"](attributes=[attribute]))

    assert types["Schema"].FromString(schema.SerializeToString()) == schema
