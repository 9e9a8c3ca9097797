"""Records of requests that were never made."""

import msgspec

from bench.loadgen.record import Record

_ONE = Record(
    arm="baseline",
    part=0,
    part_s=0.0,
    model="m",
    conversation=0,
    asked_prompt_tokens=100,
    asked_output_tokens=3,
    due_s=0.0,
    sent_s=0.0,
    wrote_s=0.0,
    content_s=(0.05, 0.06, 0.07),
    end_s=0.08,
    prompt_tokens=100,
    completion_tokens=3,
)


def a_record(**changes: object) -> Record:
    """Return a request of three tokens: TTFT 50 ms, ITL 10 ms, E2E 80 ms; with *changes*."""
    return msgspec.structs.replace(_ONE, **changes)


def delayed(record: Record, seconds: float) -> Record:
    """Return *record* with its whole answer *seconds* later."""
    return msgspec.structs.replace(
        record,
        content_s=tuple(at_s + seconds for at_s in record.content_s),
        end_s=record.end_s + seconds,
    )


def at(record: Record, part: int, part_s: float) -> Record:
    """Return *record* due *part_s* into *part*, its answer as much later."""
    shift_s = part * 100.0 + part_s - record.due_s
    return msgspec.structs.replace(
        delayed(record, shift_s),
        part=part,
        part_s=part_s,
        due_s=record.due_s + shift_s,
        sent_s=record.sent_s + shift_s,
        wrote_s=shift_s,
    )
