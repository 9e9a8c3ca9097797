"""KVCached's memory usage in Prometheus' text format.  Pure."""

from kvcached_engine.segment import SegmentUsage

_GAUGES = {
    "limit": "Most that the engine may take for its KV cache.",
    "used": "Taken by requests and cached prefixes.",
    "preallocated": "Taken in advance, for the next requests.",
}


def exposition(ipc_name: str, usage: SegmentUsage | None) -> str:
    """Return the metrics of one engine.  Without one there is no sample: it is not zero."""
    lines = [
        "# HELP kvcached_active Whether the engine keeps its KV cache with KVCached.",
        "# TYPE kvcached_active gauge",
        f'kvcached_active{{ipc="{ipc_name}"}} {int(usage is not None)}',
    ]
    for name, what in _GAUGES.items():
        metric = f"kvcached_{name}_bytes"
        lines += [f"# HELP {metric} {what}", f"# TYPE {metric} gauge"]
        if usage is not None:
            lines.append(f'{metric}{{ipc="{ipc_name}"}} {getattr(usage, name)}')
    return "\n".join(lines) + "\n"
