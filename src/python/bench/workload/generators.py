"""Workloads -> calls, not yet timed unless they come from a trace.  Pure: seeds are arguments.

mooncake        the slice of the Mooncake conversation trace that is kept here
default         the shape of the seeds' default.json: written prompts, a range of lengths
synthetic       token counts by normal distributions
shared-prefix   a few long system prompts, each followed by many short questions
multi-turn      conversations whose every turn repeats what was said before
FILE            prompts, messages, requests or a trace (bench.workload.trace_formats), a workload
                as default.json, or a schedule.jsonl that an earlier run saved
"""

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from bench.workload.schedule import BLOCK_TOKENS, Call
from bench.workload.trace_rows import CHARS_PER_TOKEN, TraceRow
from servekit.errors.tree import WorkloadInvalid

NAMES = ("mooncake", "default", "synthetic", "shared-prefix", "multi-turn")


class TokenLengths(msgspec.Struct, frozen=True):
    """Token counts as the seeds' genai-perf runs ask for them: normal, cut off at 1."""

    prompt_mean: float = 512.0
    prompt_stddev: float = 128.0
    output_mean: float = 256.0
    output_stddev: float = 64.0

    def draw(self, rng: random.Random) -> tuple[int, int]:
        """Return prompt and output tokens of one request."""
        prompt = rng.gauss(self.prompt_mean, self.prompt_stddev)
        output = rng.gauss(self.output_mean, self.output_stddev)
        return max(1, round(prompt)), max(1, round(output))


class WrittenWorkload(msgspec.Struct, frozen=True):
    """A workload file of the seeds: default.json.  Temperatures are read and not used: with a
    fixed number of output tokens they change no timing."""

    prompts: tuple[str, ...]
    models: tuple[str, ...] = ()
    max_tokens_range: tuple[int, int] = (128, 512)
    temperature_range: tuple[float, float] = (0.7, 1.0)


def read_written(content: bytes, source: str) -> WrittenWorkload:
    """Return the workload in a JSON file shaped like default.json.

    Raises:
        WorkloadInvalid: it is not, or holds no prompt, or an empty range.
    """
    try:
        read = msgspec.json.decode(content, type=WrittenWorkload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WorkloadInvalid(f"{source}: not a workload: {error}") from error
    low, high = read.max_tokens_range
    if not read.prompts or not 1 <= low <= high:
        raise WorkloadInvalid(
            f"{source}: {len(read.prompts)} prompts, max_tokens_range {[low, high]}; must have "
            "at least one prompt and a range that starts at 1 or above"
        )
    return read


def choose_models(
    shares: Mapping[str, float], conversations: Iterable[int], seed: int
) -> Iterator[str]:
    """Yield a model per conversation: always the same one for it, in the given shares."""
    models, weights = list(shares), list(shares.values())
    total = sum(weights)
    bounds = list(itertools.accumulate(weight / total for weight in weights))
    for conversation in conversations:
        key = hashlib.blake2b(f"{seed}:{conversation}".encode(), digest_size=8).digest()
        point = int.from_bytes(key) / 2**64
        yield next((m for m, end in zip(models, bounds, strict=True) if point < end), models[-1])


def from_rows(
    rows: Sequence[TraceRow], shares: Mapping[str, float], *, seed: int, speed: float
) -> list[Call]:
    """Return the calls of *rows*, played *speed* times as fast.

    A conversation is a session, or what shares its second block: the first one is common to all of
    Mooncake's.  Other rows are conversations of their own, of blocks that are not shared.
    """
    first_of: dict[str, int] = {}
    for number, row in enumerate(rows):
        first_of.setdefault(row.session, number)
    conversations = [
        _conversation(row, first_of[row.session] if row.session else n)
        for n, row in enumerate(rows)
    ]
    models = choose_models(shares, conversations, seed)
    fresh = itertools.count(1 + max((b for row in rows for b in row.blocks), default=0))
    said: dict[str, int] = {}
    calls = []
    for row, conversation, model in zip(rows, conversations, models, strict=True):
        before = said.get(row.session, 0) if row.recalls else 0
        if row.recalls:
            said[row.session] = before + row.prompt_tokens + row.output_tokens
        calls.append(
            Call(
                at_s=row.at_s / speed,
                model=row.model or model,
                prompt_tokens=before + row.prompt_tokens,
                output_tokens=row.output_tokens,
                blocks=_blocks(row, fresh),
                block_tokens=row.block_tokens,
                text=row.text,
                messages=row.messages,
                body=row.body,
                fields=row.fields,
                conversation=conversation,
                delay_s=row.delay_s,
                new_tokens=row.prompt_tokens if row.recalls else 0,
                answer=row.answer,
            )
        )
    return calls


def _conversation(row: TraceRow, number: int) -> int:
    # A row of one block says nothing of whom it belongs to.  Numbers below zero are no block ids.
    return row.blocks[1] if len(row.blocks) > 1 and not row.session else -1 - number


def _blocks(row: TraceRow, fresh: Iterator[int]) -> tuple[int, ...]:
    """Return exactly as many block ids as the prompt fills, with fresh ones where some are
    missing; none where the prompt is given."""
    if row.text or row.messages or row.body:
        return ()
    needed = -(-row.prompt_tokens // row.block_tokens)
    missing = max(0, needed - len(row.blocks))
    return (*row.blocks[:needed], *itertools.islice(fresh, missing))


def fitting(rows: Sequence[TraceRow], fit: int | None) -> tuple[list[TraceRow], list[TraceRow]]:
    """Return the rows whose prompt and output fit into *fit* tokens together, and the others.

    Where a turn of a session does not fit, neither do those that follow it.
    """
    if fit is None:
        return list(rows), []
    kept, too_long = [], []
    said: dict[str, int] = {}
    ended: set[str] = set()
    for row in rows:
        before = said.get(row.session, 0) if row.recalls else 0
        total = before + row.prompt_tokens + row.output_tokens
        if row.recalls:
            said[row.session] = total
        if total > fit or row.session in ended:
            ended |= {row.session} if row.session else set()
            too_long.append(row)
        else:
            kept.append(row)
    return kept, too_long


def repeated(rows: Sequence[TraceRow], n: int) -> list[TraceRow]:
    """Return *n* rows: *rows* again and again, each time as sessions of their own."""
    rounds = -(-n // len(rows))
    return [
        msgspec.structs.replace(row, session=f"{row.session} {turn}") if row.session else row
        for turn in range(rounds)
        for row in rows
    ][:n]


def written(workload: WrittenWorkload, models: Sequence[str], n: int, seed: int) -> list[Call]:
    """Return *n* requests of written prompts, models in turn, lengths drawn from the range."""
    rng = random.Random(seed)
    low, high = workload.max_tokens_range
    return [
        Call(
            at_s=0.0,
            model=models[number % len(models)],
            prompt_tokens=max(1, len(text) // CHARS_PER_TOKEN),
            output_tokens=rng.randint(low, high),
            text=text,
            conversation=number,
        )
        for number, text in enumerate(rng.choices(workload.prompts, k=n))
    ]


def synthetic(lengths: TokenLengths, shares: Mapping[str, float], n: int, seed: int) -> list[Call]:
    """Return *n* requests that share nothing."""
    rng = random.Random(seed)
    fresh = itertools.count()
    models = choose_models(shares, range(n), seed)
    return [_own(number, model, lengths.draw(rng), fresh) for number, model in enumerate(models)]


def shared_prefix(
    lengths: TokenLengths,
    shares: Mapping[str, float],
    n: int,
    seed: int,
    *,
    groups: int = 8,
    prefix_tokens: int = 2_048,
) -> list[Call]:
    """Return *n* requests, each one of *groups* system prompts and a question of its own."""
    rng = random.Random(seed)
    fresh = itertools.count()
    blocks = -(-prefix_tokens // BLOCK_TOKENS)
    prefixes = [tuple(itertools.islice(fresh, blocks)) for _ in range(groups)]
    models = list(choose_models(shares, range(groups), seed))
    return [
        _own(group, models[group], lengths.draw(rng), fresh, prefixes[group])
        for group in (rng.randrange(groups) for _ in range(n))
    ]


def multi_turn(
    lengths: TokenLengths,
    shares: Mapping[str, float],
    n: int,
    seed: int,
    *,
    turns: int = 5,
    fit: int | None,
    delay_s: float | None = None,
) -> list[Call]:
    """Return *n* requests of conversations of *turns* turns; many are under way at once.

    A turn's prompt is the whole conversation so far.  One that outgrows *fit* tokens ends.  With
    *delay_s*, a turn comes so long after the answer before it, and repeats what was really said.
    """
    if delay_s is not None:
        return _live_turns(lengths, shares, n, seed, turns=turns, fit=fit, delay_s=delay_s)
    rng = random.Random(seed)
    fresh = itertools.count()
    calls: list[Call] = []
    for number, model in enumerate(choose_models(shares, itertools.count(), seed)):
        calls.extend(_turns(number, model, lengths, turns, fit, rng, fresh))
        if len(calls) >= n * 2:
            break
    # Turn k of a conversation comes after turn k-1, with other conversations' turns between.
    order = sorted(range(len(calls)), key=lambda i: (calls[i].at_s + rng.random(), i))
    return [msgspec.structs.replace(calls[i], at_s=0.0) for i in order[:n]]


def _live_turns(
    lengths: TokenLengths,
    shares: Mapping[str, float],
    n: int,
    seed: int,
    *,
    turns: int,
    fit: int | None,
    delay_s: float,
) -> list[Call]:
    rng = random.Random(seed)
    rows = [
        TraceRow(
            at_s=0.0,
            prompt_tokens=prompt,
            output_tokens=output,
            session=str(number // turns),
            delay_s=delay_s if number % turns else None,
            recalls=True,
        )
        for number, (prompt, output) in enumerate(lengths.draw(rng) for _ in range(n))
    ]
    return from_rows(fitting(rows, fit)[0], shares, seed=seed, speed=1.0)


def _turns(
    number: int,
    model: str,
    lengths: TokenLengths,
    turns: int,
    fit: int | None,
    rng: random.Random,
    fresh: Iterator[int],
) -> Iterator[Call]:
    said: tuple[int, ...] = ()
    start = float(rng.randrange(turns))
    for turn in range(turns):
        asked, answered = lengths.draw(rng)
        call = _own(number, model, (asked, answered), fresh, said)
        if fit is not None and call.prompt_tokens + answered > fit:
            return
        yield msgspec.structs.replace(call, at_s=start + turn)
        # Only whole blocks are shared: the question's last one and the answer are fresh tokens.
        said = (*call.blocks, *itertools.islice(fresh, answered // BLOCK_TOKENS))


def _own(
    conversation: int,
    model: str,
    tokens: tuple[int, int],
    fresh: Iterator[int],
    prefix: tuple[int, ...] = (),
) -> Call:
    """Return a call whose prompt is *prefix* and then fresh blocks for its own tokens."""
    prompt, output = tokens
    own = itertools.islice(fresh, -(-prompt // BLOCK_TOKENS))
    return Call(
        at_s=0.0,
        model=model,
        prompt_tokens=len(prefix) * BLOCK_TOKENS + prompt,
        output_tokens=output,
        blocks=(*prefix, *own),
        conversation=conversation,
    )


def timed(calls: Sequence[Call], times_s: Sequence[float]) -> tuple[Call, ...]:
    """Return *calls* due at *times_s*, one each; what follows another call has that one's."""
    begun_s: dict[int, float] = {}
    due = []
    for call, at_s in zip(calls, times_s, strict=True):
        if call.delay_s is None:
            begun_s[call.conversation] = at_s
        due.append(msgspec.structs.replace(call, at_s=begun_s[call.conversation]))
    return tuple(due)
