"""KVCached's memory usage in Prometheus' text format.  Pure."""

from kvcached_engine.memory_proof import MemoryCourse, disproof
from kvcached_engine.segment import SegmentUsage

_GAUGES = {
    "limit": "Most that the engine may take for its KV cache.",
    "used": "Taken by requests and cached prefixes.",
    "preallocated": "Taken in advance, for the next requests.",
}


def exposition(ipc_name: str, usage: SegmentUsage | None, course: MemoryCourse | None) -> str:
    """Return the metrics of one engine.  Without one there is no sample: it is not zero."""
    lines = [
        "# HELP kvcached_active Whether the engine has a usage record of KVCached.",
        "# TYPE kvcached_active gauge",
        f'kvcached_active{{ipc="{ipc_name}"}} {int(usage is not None)}',
        "# HELP kvcached_memory_follows_load Whether GPU memory grew under a load and was given "
        "back after it, when the engine started.",
        "# TYPE kvcached_memory_follows_load gauge",
        f'kvcached_memory_follows_load{{ipc="{ipc_name}"}} {int(_is_proven(course))}',
    ]
    for name, what in _GAUGES.items():
        metric = f"kvcached_{name}_bytes"
        lines += [f"# HELP {metric} {what}", f"# TYPE {metric} gauge"]
        if usage is not None:
            lines.append(f'{metric}{{ipc="{ipc_name}"}} {getattr(usage, name)}')
    return "\n".join([*lines, *_course_lines(ipc_name, course)]) + "\n"


def _is_proven(course: MemoryCourse | None) -> bool:
    return course is not None and disproof(course) is None


def _course_lines(ipc_name: str, course: MemoryCourse | None) -> list[str]:
    metric = "kvcached_proof_gpu_memory_bytes"
    lines = [
        f"# HELP {metric} Used memory of the engine's GPUs around the proof's load.",
        f"# TYPE {metric} gauge",
    ]
    if course is not None:
        lines += [
            f'{metric}{{ipc="{ipc_name}",when="{when}"}} {getattr(course, when)}'
            for when in ("before", "idle", "loaded", "released")
        ]
    return lines
