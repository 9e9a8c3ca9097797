"""What is asked of which model, and when; both arms replay it byte for byte.  Pure."""

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from servekit.errors.tree import WorkloadInvalid

T = TypeVar("T")

# A hash id of a Mooncake trace stands for this many tokens.
BLOCK_TOKENS = 512


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request of a schedule.

    Attributes:
        at_s: when it is due, from the start of the schedule.
        blocks: ids of the prompt's blocks of *block_tokens* tokens, the last one cut to fit
            *prompt_tokens*; equal ids are equal tokens, so that equal prefixes are real ones.
        text: the prompt, where it is words and not blocks.
        messages: a chat's messages as a file has them, instead of *text*.
        fields: further fields of the request, as a file has them.
        body: the whole request, as a file has it; only model and streaming are put in.
        conversation: requests of one conversation share a prefix and a model.
        delay_s: it follows the call before it in its conversation: due this long after that one's
            answer, and not before *at_s*; None: due at *at_s*.
        new_tokens: what it adds to its conversation, in tokens, where what was said before precedes
            it; 0: the prompt is complete as it is.
        answer: what is taken to have been answered; empty: what the model really says.
    """

    at_s: float
    model: str
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    text: str = ""
    conversation: int = 0
    block_tokens: int = BLOCK_TOKENS
    messages: tuple[dict[str, Any], ...] = ()
    fields: dict[str, Any] = {}
    body: dict[str, Any] = {}
    delay_s: float | None = None
    new_tokens: int = 0
    answer: str = ""

    @property
    def segments(self) -> tuple[int, ...]:
        """Ids of the prompt's whole stretches of BLOCK_TOKENS tokens, whatever its blocks' size."""
        whole, each = self.prompt_tokens // BLOCK_TOKENS, BLOCK_TOKENS // self.block_tokens
        if each <= 1:
            return self.blocks[:whole]
        # Python hashes tuples of numbers the same way in every process.
        return tuple(hash(self.blocks[n * each : (n + 1) * each]) for n in range(whole))


class Part(msgspec.Struct, frozen=True):
    """A stretch of a schedule, which one arm replays at a time.

    Attributes:
        start_s: where it starts in the schedule.
        length_s: how long it lasts; calls that are due keep arriving for so long.
    """

    number: int
    start_s: float
    length_s: float
    calls: tuple[Call, ...]


class DroppedRows(msgspec.Struct, frozen=True):
    """What of a workload's file was left out.

    Attributes:
        of_rows: requests that the file has.
        reasons: how many were left out, by why.
        prompt_share: share of the file's prompt tokens that were left out, 0.0 to 1.0.
    """

    of_rows: int
    reasons: dict[str, int]
    prompt_share: float

    @property
    def rows(self) -> int:
        return sum(self.reasons.values())

    def __str__(self) -> str:
        why = "; ".join(f"{n:,} {reason}" for reason, n in self.reasons.items())
        return (
            f"{self.rows:,} of {self.of_rows:,} requests of the workload's file were left out, "
            f"with {self.prompt_share:.0%} of its prompt tokens: {why}"
        )


class Schedule(msgspec.Struct, frozen=True):
    """Calls in the order in which they are due.

    Attributes:
        name: the workload that it was made from.
        seed: what every random choice in it came from.
        dropped: what of its file it leaves out; not saved with it.
        notes: what else a reader must know of how it was made; not saved with it.
    """

    name: str
    seed: int
    calls: tuple[Call, ...]
    dropped: DroppedRows | None = None
    notes: tuple[str, ...] = ()

    @property
    def length_s(self) -> float:
        return self.calls[-1].at_s if self.calls else 0.0

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it asks for, each once, sorted."""
        return tuple(sorted({call.model for call in self.calls}))

    @property
    def digest(self) -> str:
        """Return a hash that only the same calls at the same times have."""
        return hashlib.sha256(write_schedule(self)).hexdigest()


class _Head(msgspec.Struct, frozen=True):
    schedule: str
    seed: int


_encode = msgspec.json.Encoder().encode


def write_schedule(schedule: Schedule) -> bytes:
    """Return *schedule* as JSON lines: a head, then one call a line."""
    head = _Head(schedule.name, schedule.seed)
    return b"".join(_encode(value) + b"\n" for value in (head, *schedule.calls))


def read_schedule(lines: bytes, source: str) -> Schedule:
    """Return what `write_schedule` wrote.  *source* names it in errors.

    Raises:
        WorkloadInvalid: it is something else; the message has the line's number.
    """
    head, *rest = lines.splitlines() or [b""]
    about = _read_line(_Head, head, 1, source)
    calls = tuple(_read_line(Call, line, n, source) for n, line in enumerate(rest, start=2))
    return in_order(Schedule(about.schedule, about.seed, calls))


def in_order(schedule: Schedule) -> Schedule:
    """Return *schedule* with its calls sorted by when they are due; ties keep their order."""
    calls = tuple(sorted(schedule.calls, key=lambda call: call.at_s))
    return msgspec.structs.replace(schedule, calls=calls)


def split(schedule: Schedule, lengths_s: Sequence[float]) -> tuple[Part, ...]:
    """Return consecutive parts of *schedule* of the given lengths; the rest is left out.

    A call that follows another belongs to the part in which its conversation began.
    """
    begun_s: dict[int, float] = {}
    for call in schedule.calls:
        if call.delay_s is None:
            begun_s[call.conversation] = call.at_s
    parts: list[Part] = []
    start_s = 0.0
    for number, length_s in enumerate(lengths_s):
        end_s = start_s + length_s
        calls = tuple(
            call
            for call in schedule.calls
            if start_s
            <= (call.at_s if call.delay_s is None else begun_s[call.conversation])
            < end_s
        )
        parts.append(Part(number, start_s, length_s, calls))
        start_s = end_s
    return tuple(parts)


class PartLayout(msgspec.Struct, frozen=True, kw_only=True):
    """How a comparison is laid out in time.

    Attributes:
        parts, part_s: how many parts each arm replays, and how long one lasts.
        warmup_s: replayed by each arm before anything counts.
        drain: whether an arm's turn waits for the other's last answer.
        steady_s: the first part lasts so long, if that is longer than the others: an arm reaches a
            plateau in it, of which throughput is told.
        looks: after how many parts the run is looked at, and may end; empty where it may not.
    """

    parts: int = 16
    part_s: float = 3.0
    warmup_s: float = 5.0
    drain: bool = False
    steady_s: float = 0.0
    looks: tuple[int, ...] = ()

    @property
    def lengths_s(self) -> tuple[float, ...]:
        """How long each part lasts that counts."""
        first = [max(self.steady_s, self.part_s)] if self.parts else []
        return (*first, *[self.part_s] * (self.parts - 1))

    @property
    def length_s(self) -> float:
        """Seconds of schedule that it uses."""
        return self.warmup_s + sum(self.lengths_s)

    def split(self, schedule: Schedule) -> tuple[Part, ...]:
        """Return the warm-up, which may be empty, and then the parts that count."""
        return split(schedule, [self.warmup_s, *self.lengths_s])


def whole(schedule: Schedule) -> PartLayout:
    """Return the shape of *schedule* as one part, without a warm-up."""
    # The last call is due at the end, which belongs to no part.
    return PartLayout(parts=1, part_s=schedule.length_s + 1e-6, warmup_s=0.0)


def _read_line(kind: type[T], line: bytes, number: int, source: str) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WorkloadInvalid(f"{source}, line {number}: not a schedule: {error}") from error
