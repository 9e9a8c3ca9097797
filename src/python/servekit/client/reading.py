"""The body of an answer, as timed pieces -> when its tokens came and how it ended.  Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from servekit.client.outcome import (
    FINISH_FAULTS,
    NORMAL_FINISHES,
    Fault,
    Notice,
    streamed_tokens,
)
from servekit.errors.tree import RequestInvalid, StreamCut
from servekit.wire.sse import SseDecoder, SseEvent
from servekit.wire.streams import (
    EventTokens,
    StreamEvent,
    TokenCounts,
    TokenKind,
    read_event,
    read_whole_answer,
    words_of,
)

# Enough for the first sentence of an error; the whole of it may quote a prompt.
DETAIL_CHARS = 200

# From this share of events on that came in the read of the one before, gaps between events say how
# something on the way buffers, not how fast tokens are made.
BURST_SHARE = 0.25

# Text shorter than this many characters a token cannot be all that was counted: the shortest
# tokens that models print in bulk have one.
_LEAST_CHARS_PER_TOKEN = 0.5


# With at least this many events per token, an event is a token, save for a few without text.
_EVENTS_ARE_TOKENS = 0.75


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """What a stream said, once it has ended.

    Attributes:
        content_s: when each event with tokens arrived, in order.
        answer_s: when the first token that is no reasoning arrived; None where there is none, or
            where reasoning and answer are one text.
        hidden_tokens: completion tokens that no event carried; None where that is unknown.
        first_tokens: how many came in the first read.
        text: what was answered; empty unless it is kept.
    """

    content_s: tuple[float, ...]
    answer_s: float | None
    finish: str | None
    error: str | None
    detail: str
    notices: tuple[str, ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    hidden_tokens: int | None
    first_tokens: int
    text: str = ""


class StreamReading:
    """A streamed answer: `read()` each piece with the time at which it arrived.

    Several events in a piece share its time, which is when the reader could first have known
    them.  Nothing raises: a broken stream sets `error`.

    Attributes:
        is_done: the stream said that nothing follows.
        error: what ended it early.
    """

    def __init__(self, *, keep_text: bool = False) -> None:
        self._text: list[str] | None = [] if keep_text else None
        self._decoder = SseDecoder()
        self._read_s = 0.0
        self._content_s: list[float] = []
        self._answer_s: float | None = None
        self._kinds: set[TokenKind] = set()
        self._choices: set[int] = set()
        self._chars = 0
        self._first_chars = 0
        self._held_first = self._held = 0
        self._notices: set[Notice] = set()
        self._finish: str | None = None
        self._counts = TokenCounts()
        self.is_done = False
        self.error: str | None = None
        self.detail = ""

    def read(self, piece: bytes, at_s: float) -> None:
        if self.error is not None:
            return
        self._read_s = at_s
        try:
            self._take_all(self._decoder.feed(piece), at_s)
        except StreamCut as error:
            self.fail(Fault.MALFORMED, str(error))

    def fail(self, error: str, detail: str) -> None:
        """End the stream with *error*, unless it has ended with another."""
        if self.error is None:
            self.error = error
            self.detail = shorten(detail)

    def finish(self, broken: tuple[str, str] | None = None) -> StreamedAnswer:
        """Return the answer: no more pieces follow, because the body ended, or because the
        exchange broke as *broken* says."""
        if self.error is None and not self.is_done and self._decoder.unfinished:
            self._flush()
        if self.error is None:
            self._judge(broken)
        counts = _plausible(self._counts, len(self._content_s), self._notices)
        hidden = self._hidden(counts)
        self._notice_timing()
        return StreamedAnswer(
            content_s=tuple(self._content_s),
            answer_s=None if Notice.INLINE_REASONING in self._notices else self._answer_s,
            finish=self._finish,
            error=self.error,
            detail=self.detail,
            notices=() if self.error else tuple(sorted(self._notices)),
            prompt_tokens=counts.prompt,
            completion_tokens=counts.completion,
            hidden_tokens=hidden,
            first_tokens=self._first_tokens(streamed_tokens(counts.completion, hidden)),
            text="".join(self._text or ()),
        )

    def _take_all(self, events: Sequence[SseEvent], at_s: float) -> None:
        for event in events:
            if self.is_done:
                self._notices.add(Notice.AFTER_DONE)
                return
            try:
                self._take(read_event(event), at_s)
            except RequestInvalid as error:
                self.fail(Fault.MALFORMED, str(error))
            if self.error is not None:
                return

    def _take(self, event: StreamEvent, at_s: float) -> None:
        if event.tokens:
            self._content_s.append(at_s)
            for tokens in event.tokens:
                self._count(tokens, at_s)
        elif event.holds_back:
            self._held += 1
            self._held_first += not self._content_s
        if event.counts is not None:
            self._counts = _merged(self._counts, event.counts)
        if event.null_choices:
            self._notices.add(Notice.NULL_CHOICES)
        self._finish = event.finish or self._finish
        self.is_done = event.is_last
        if event.error is not None:
            self.fail(Fault.ERROR_EVENT, event.error)

    def _count(self, tokens: EventTokens, at_s: float) -> None:
        if tokens.opens_reasoning and not self._kinds:
            self._notices.add(Notice.INLINE_REASONING)
        if self._answer_s is None and tokens.kind is not TokenKind.REASONING:
            self._answer_s = at_s
        if self._text is not None and tokens.choice == 0:
            self._text.append(tokens.text)
        self._kinds.add(tokens.kind)
        self._choices.add(tokens.choice)
        self._chars += tokens.chars
        if at_s == self._content_s[0]:
            self._first_chars += tokens.chars

    def _flush(self) -> None:
        """Read an event that lacks only its empty line; one that is cut is the end's business."""
        try:
            events = [read_event(event) for event in self._decoder.flush()]
        except (RequestInvalid, StreamCut):
            return
        for event in events:
            self._notices.add(Notice.UNENDED)
            self._take(event, self._read_s)

    def _judge(self, broken: tuple[str, str] | None) -> None:
        """Say how a stream ended in which nothing failed by its own words."""
        fault = FINISH_FAULTS.get((self._finish or "").lower())
        if fault is not None:
            self.fail(fault, f"finish_reason {self._finish}")
        elif broken is not None and not self.is_done:
            self.fail(*broken)
        elif not self.is_done and self._finish is None:
            self.fail(Fault.NO_END, "the stream ended with neither [DONE] nor a finish reason")
        elif not self._content_s:
            self.fail(Fault.EMPTY, self._why_empty())
        else:
            self._notice_end(broken)

    def _notice_end(self, broken: tuple[str, str] | None) -> None:
        if broken is not None:
            self._notices.add(Notice.NOT_CLOSED)
        if not self.is_done:
            self._notices.add(Notice.NO_DONE)
        if self._finish is None:
            self._notices.add(Notice.NO_FINISH)
        elif self._finish.lower() not in NORMAL_FINISHES:
            self._notices.add(Notice.ODD_FINISH)

    def _why_empty(self) -> str:
        counted = self._counts.completion
        if counted:
            return f"no event carried a token, though usage counts {counted}"
        return "the stream carried no tokens"

    def _hidden(self, counts: TokenCounts) -> int | None:
        """Completion tokens that no event carried."""
        events, counted = len(self._content_s), counts.completion
        if counted is None or not events:
            return None
        hidden = 0
        if counts.reasoning and TokenKind.REASONING not in self._kinds:
            self._notices.add(Notice.HIDDEN_REASONING)
            hidden = min(counts.reasoning, counted - 1)
        streamed = counted - hidden
        if streamed > events:
            self._notices.add(Notice.MORE_TOKENS)
        elif streamed < events:
            self._notices.add(Notice.FEWER_TOKENS)
        if self._chars < streamed * _LEAST_CHARS_PER_TOKEN:
            self._notices.add(Notice.HIDDEN_TOKENS)
            return None
        return hidden

    def _first_tokens(self, streamed: int | None) -> int:
        """Tokens of the first read."""
        if not self._content_s:
            return 1
        together = self._content_s.count(self._content_s[0])
        if streamed == len(self._content_s) + self._held:
            return together + self._held_first
        if streamed is None or len(self._content_s) >= _EVENTS_ARE_TOKENS * streamed:
            return together
        return max(1, round(streamed * self._first_chars / max(1, self._chars)))

    def _notice_timing(self) -> None:
        events, reads = len(self._content_s), len(set(self._content_s))
        if len(self._choices) > 1:
            self._notices.add(Notice.SEVERAL_CHOICES)
        if reads == 1 and (events > 1 or (self._counts.completion or 0) > 1):
            self._notices.add(Notice.BUFFERED)
        elif events > 1 and events - reads >= BURST_SHARE * events:
            self._notices.add(Notice.BURSTS)


def _merged(before: TokenCounts, now: TokenCounts) -> TokenCounts:
    """Counts grow along a stream, and Messages give the prompt's at its start only."""
    return TokenCounts(
        before.prompt if now.prompt is None else now.prompt,
        before.completion if now.completion is None else now.completion,
        before.reasoning if now.reasoning is None else now.reasoning,
    )


def _plausible(counts: TokenCounts, events: int, notices: set[Notice]) -> TokenCounts:
    """Return *counts* without those that cannot be true: what is unknown is not zero."""
    if counts.completion is None:
        notices.add(Notice.NO_USAGE)
    elif events and (counts.completion <= 0 or counts.prompt == 0):
        notices.add(Notice.ZERO_USAGE)
    completion = counts.completion
    if completion is not None and events > 1.1 * completion + 2:
        # A parser may send the last token in two events; a count as low as this is of something
        # else, and a rate made from it would be wrong.
        notices.add(Notice.FEWER_TOKENS if completion > 0 else Notice.ZERO_USAGE)
        completion = None
    return TokenCounts(counts.prompt or None, completion or None, counts.reasoning)


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer that came in one piece."""

    error: str | None = None
    detail: str = ""
    finish: str | None = None
    counts: TokenCounts = field(default_factory=TokenCounts)
    text: str = ""


def read_whole(body: bytes) -> WholeAnswer:
    """Return what is said in *body*, which was not streamed."""
    try:
        said = read_whole_answer(body)
    except RequestInvalid as error:
        return WholeAnswer(Fault.MALFORMED, shorten(str(error)))
    counts = said.counts or TokenCounts()
    if said.error is not None:
        return WholeAnswer(Fault.ERROR_EVENT, shorten(said.error))
    fault = FINISH_FAULTS.get((said.finish or "").lower())
    if fault is not None:
        return WholeAnswer(fault, f"finish_reason {said.finish}", said.finish)
    if not said.tokens and not said.embeddings:
        return WholeAnswer(Fault.EMPTY, "the answer carried no tokens", said.finish)
    known = TokenCounts(counts.prompt or None, counts.completion or None, counts.reasoning)
    text = "".join(tokens.text for tokens in said.tokens if tokens.choice == 0)
    return WholeAnswer(finish=said.finish, counts=known, text=text)


def refusal(status: int, body: bytes, location: str = "") -> tuple[str, str]:
    """Return error and detail for an answer with a *status* that is no success.

    *location* is where a redirect points: it is not followed, as another upstream would be
    measured.
    """
    if location:
        return f"http {status}", shorten(f"redirected to {location}; give that URL")
    return f"http {status}", shorten(words_of(body))


def shorten(text: str) -> str:
    """Return *text* on one line, cut to what a table has room for."""
    line = " ".join(text.split())
    return line if len(line) <= DETAIL_CHARS else line[: DETAIL_CHARS - 1] + "…"
