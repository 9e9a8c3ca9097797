"""Where a replica publishes its KV-cache events.  Pure."""

from servekit.errors.tree import SettingInvalid

Endpoints = tuple[tuple[str, str | None], ...]


def endpoints_of(name: str, host: str, port: int, events: str, replay: str | None) -> Endpoints:
    """Return the endpoint of each rank of a replica, and where it sends again, by patterns.

    Raises:
        SettingInvalid: a pattern has an unknown placeholder, or there are not as many of both.
    """
    published = _filled("--kv-events", events, name, host, port)
    again: list[str | None] = [None] * len(published)
    if replay is not None:
        again = [*_filled("--kv-events-replay", replay, name, host, port)]
    if len(again) != len(published):
        raise SettingInvalid(
            f"--kv-events has {len(published)} endpoints and --kv-events-replay {len(again)}; "
            "give one of each for every data-parallel rank"
        )
    return tuple(zip(published, again, strict=True))


def _filled(option: str, pattern: str, name: str, host: str, port: int) -> list[str]:
    try:
        text = pattern.format(name=name, host=host, port=port)
    except (KeyError, IndexError, ValueError) as error:
        raise SettingInvalid(
            f"{option} is {pattern!r}; its placeholders are {{host}}, {{port}} and {{name}}"
        ) from error
    endpoints = [one.strip() for one in text.split(",") if one.strip()]
    for endpoint in endpoints:
        if not endpoint.startswith(("tcp://", "ipc://")):
            raise SettingInvalid(f"{option} names {endpoint!r}; it must be tcp:// or ipc://")
    if not endpoints:
        raise SettingInvalid(f"{option} is empty; give tcp://HOST:PORT, or leave it out")
    return endpoints
