"""Where spans go: an option, and OpenTelemetry's variables -> the URL of a collector."""

import importlib.util
import re
from collections.abc import Callable

from servekit.errors.tree import SettingInvalid
from servekit.settings.environment import Settings

_URL = re.compile(r"https?://[^\s/?#]+[^\s?#]*")


class OtelSettings(Settings, frozen=True, kw_only=True):
    """The variables that decide whether spans are sent; the SDK itself reads the others.

    Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables
    """

    otel_sdk_disabled: str = ""
    otel_traces_exporter: str = "otlp"
    otel_exporter_otlp_endpoint: str = ""
    otel_exporter_otlp_protocol: str = "http/protobuf"
    otel_exporter_otlp_traces_endpoint: str = ""
    otel_exporter_otlp_traces_protocol: str = ""


def collector_url(
    option: str | None, settings: OtelSettings, warn: Callable[[str], None]
) -> str | None:
    """Return where spans are sent; None where tracing is off.

    What the command line asks for must be possible.  The environment is often filled for all
    programs of a cluster: where we cannot do as it says, requests are served without spans.

    Raises:
        SettingInvalid: *option* is no URL, or OpenTelemetry's SDK is not installed.
    """
    # Any other word is false, says the specification.
    if settings.otel_sdk_disabled.strip().lower() == "true":
        return None
    if option:
        return _checked(option.rstrip("/") + "/v1/traces", "--otlp-endpoint")
    try:
        return _of_environment(settings)
    except SettingInvalid as error:
        warn(f"tracing is off: {error}")
        return None


def _of_environment(settings: OtelSettings) -> str | None:
    whole, base = settings.otel_exporter_otlp_traces_endpoint, settings.otel_exporter_otlp_endpoint
    if not (whole or base) or settings.otel_traces_exporter == "none":
        return None
    protocol = settings.otel_exporter_otlp_traces_protocol or settings.otel_exporter_otlp_protocol
    for name, value, spoken in (
        ("OTEL_TRACES_EXPORTER", settings.otel_traces_exporter, "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol, "http/protobuf"),
    ):
        if value != spoken:
            raise SettingInvalid(f"{name} is {value!r}; set it to {spoken!r}, no other is spoken")
    if whole:
        return _checked(whole, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return _checked(base.rstrip("/") + "/v1/traces", "OTEL_EXPORTER_OTLP_ENDPOINT")


def _checked(url: str, name: str) -> str:
    if not _URL.fullmatch(url):
        # Not the value: it may hold a password.
        raise SettingInvalid(f"{name} is not an http URL; give one like http://collector:4318")
    try:
        exporter = "opentelemetry.exporter.otlp.proto.http"  # pants: no-infer-dep
        found = importlib.util.find_spec(exporter)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise SettingInvalid(
            f"{name} needs OpenTelemetry's SDK, which is not installed; install servekit[otel]"
        )
    return url
