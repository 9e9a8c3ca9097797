"""Whether spans are sent, and where."""

from typing import Any

import pytest

from loadbalancer.observe.otlp_settings import OtelSettings, collector_url
from servekit.errors.tree import SettingInvalid

BASE = "http://collector:4318"


def chosen(option: str | None = None, **variables: Any) -> tuple[str | None, list[str]]:
    """Return the URL, and the warnings."""
    warnings: list[str] = []
    return collector_url(option, OtelSettings(**variables), warnings.append), warnings


def test_nothing_is_sent_unless_asked() -> None:
    """No variable, no option, no spans."""
    assert chosen() == (None, [])


@pytest.mark.parametrize("base", [BASE, BASE + "/"])
def test_option_wins(base: str) -> None:
    """As every option of ours does; the path is OTLP's."""
    url, _ = chosen(base, otel_exporter_otlp_endpoint="http://other:4318")

    assert url == "http://collector:4318/v1/traces"


def test_environment_is_enough() -> None:
    """An operator sets it for a whole cluster."""
    assert chosen(otel_exporter_otlp_endpoint=BASE) == (BASE + "/v1/traces", [])


def test_url_of_traces_is_taken_as_it_is() -> None:
    """The specification adds a path to the common URL only."""
    url, _ = chosen(otel_exporter_otlp_endpoint=BASE, otel_exporter_otlp_traces_endpoint="http://t")

    assert url == "http://t"


@pytest.mark.parametrize(
    "variables", [{"otel_sdk_disabled": "True"}, {"otel_traces_exporter": "none"}]
)
def test_environment_can_say_no(variables: dict[str, str]) -> None:
    """Both ways that the specification has."""
    assert chosen(otel_exporter_otlp_endpoint=BASE, **variables) == (None, [])


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"otel_exporter_otlp_endpoint": "collector:4317"}, "is not an http URL"),
        ({"otel_exporter_otlp_protocol": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"),
        ({"otel_exporter_otlp_traces_protocol": "grpc"}, "set it to 'http/protobuf'"),
        ({"otel_traces_exporter": "console"}, "OTEL_TRACES_EXPORTER is 'console'"),
    ],
)
def test_environment_that_cannot_be_followed_is_warned_about(
    variables: dict[str, str], said: str
) -> None:
    """Requests are served all the same: the variables may be meant for others."""
    url, warnings = chosen(**{"otel_exporter_otlp_endpoint": BASE, **variables})

    assert url is None
    assert len(warnings) == 1
    assert said in warnings[0]


def test_option_that_is_no_url_is_refused() -> None:
    """And not shown: it may hold a password."""
    with pytest.raises(SettingInvalid, match="not an http URL") as caught:
        chosen("user:sesame@collector")

    assert "sesame" not in str(caught.value)
