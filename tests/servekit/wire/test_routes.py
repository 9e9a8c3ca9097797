"""The table of paths."""

import pytest

from servekit.wire.dialects import Dialect
from servekit.wire.routes import ROUTES, Audience, Route, RouteTable, Target

TABLE = RouteTable(("/v1/odd",))


def found(path: str) -> Route:
    route = TABLE.find(path.encode())
    assert route is not None
    return route


@pytest.mark.parametrize(
    ("path", "row"),
    [
        ("/v1/responses/resp_1", "/v1/responses/{id}"),
        ("/v1/responses/resp_1/cancel", "/v1/responses/{id}/cancel"),
        ("/v1/responses/render", "/v1/responses/render"),
        ("/v1/models/meta-llama/Llama-3.1-8B", "/v1/models/{id}"),
        ("/v1/odd", "/v1/odd"),
    ],
)
def test_path_is_found_by_its_row(path: str, row: str) -> None:
    """An exact row comes before a pattern."""
    assert found(path).path == row


@pytest.mark.parametrize(
    "path",
    [
        "/v1/odder",
        "/v1/",
        "/v1",
        "/V1/models",
        "//v1/completions",
        "/v1/../sleep",
        "/v1/responses/",
        "/v1/responses/a/b",
        "/v1/responses/a.b",
        "/v1/responses/%2e%2e",
        "/v1/completions/",
        "/collective_rpc",
        "/update_weights",
        "/v1/responses/" + "a" * 201,
    ],
)
def test_what_is_not_in_the_table_is_not_found(path: str) -> None:
    """Nothing is cleaned up first."""
    assert TABLE.find(path.encode()) is None


def test_id_is_what_stands_in_its_place() -> None:
    """Of models with their slashes."""
    assert TABLE.id_in(b"/v1/responses/resp_1/cancel") == "resp_1"
    assert TABLE.id_in(b"/v1/models/a/b-1.5") == "a/b-1.5"


def test_what_changes_engines_is_for_admins_and_for_all_of_them() -> None:
    """And is sent once: half of the engines may have done it."""
    admin = [route for route in ROUTES if route.audience is Audience.ADMIN]

    assert {"/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep"} <= {
        route.path for route in admin
    }
    assert all(route.target is Target.EVERY and not route.retried for route in admin)


def test_paths_are_unique_and_an_unknown_one_is_of_an_unknown_dialect() -> None:
    """A row decides alone."""
    assert len({route.path for route in ROUTES}) == len(ROUTES)
    assert found("/v1/odd").dialect is Dialect.UNKNOWN
