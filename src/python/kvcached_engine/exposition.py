"""An account in Prometheus' text format.  Pure."""

from kvcached_engine.segment import Account

_GAUGES = {
    "limit": "Most that the engine may take for its KV cache.",
    "used": "Taken by requests and cached prefixes.",
    "preallocated": "Taken in advance, for the next requests.",
}


def exposition(ipc_name: str, account: Account | None) -> str:
    """Return the metrics of one engine.  Without an account there is no sample: it is not zero."""
    lines = [
        "# HELP kvcached_active Whether the engine keeps its KV cache with KVCached.",
        "# TYPE kvcached_active gauge",
        f'kvcached_active{{ipc="{ipc_name}"}} {int(account is not None)}',
    ]
    for name, what in _GAUGES.items():
        metric = f"kvcached_{name}_bytes"
        lines += [f"# HELP {metric} {what}", f"# TYPE {metric} gauge"]
        if account is not None:
            lines.append(f'{metric}{{ipc="{ipc_name}"}} {getattr(account, name)}')
    return "\n".join(lines) + "\n"
