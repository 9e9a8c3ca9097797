"""How many tokens a prompt has, corrected by what engines count.  Pure.

Before an answer a prompt is known by its bytes and its media; `usage` in the answer says what that
was in tokens.  A model's ratio between the two is learnt as a running median is, by steps of
bounded size: no answer, and no replica that gives wrong counts, moves it far.
"""

from math import exp, log

# A sample moves a ratio by this share of what it differs.
_GAIN = 0.05
# And differs by no more than this (a logarithm); at first by more, so that a few answers suffice.
_MOST_STEP = 0.2
_FIRST_STEPS = 3.0
# Text of one byte a token, or of 32.
_MOST_RATIO = log(8.0)
# Counts of a handful of tokens are those of the template.
_LEAST_TOKENS = 16


class _Ratio:
    """What an estimate must be multiplied with."""

    __slots__ = ("_log", "_seen", "value")

    def __init__(self) -> None:
        self._log = 0.0
        self._seen = 0
        self.value = 1.0

    def learn(self, estimated: float, counted: float) -> None:
        self._seen += 1
        differs = log(counted / estimated) - self._log
        most = max(_MOST_STEP, _FIRST_STEPS / self._seen)
        gain = max(_GAIN, 1.0 / (self._seen + 1))
        moved = self._log + gain * max(-most, min(most, differs))
        self._log = max(-_MOST_RATIO, min(_MOST_RATIO, moved))
        self.value = exp(self._log)


class TokenEstimate:
    """Tokens of one model's prompts; text and media have ratios of their own."""

    __slots__ = ("_media", "_text")

    def __init__(self) -> None:
        self._text = _Ratio()
        self._media = _Ratio()

    @property
    def text_ratio(self) -> float:
        return self._text.value

    @property
    def media_ratio(self) -> float:
        return self._media.value

    def tokens(self, text: int, media: int = 0, exact: int = 0) -> int:
        """Return the tokens of *text* and *media* tokens by rule, and *exact* ones."""
        if media:
            return exact + round(text * self._text.value + media * self._media.value)
        return exact + round(text * self._text.value)

    def learn(self, text: int, media: int, exact: int, counted: int) -> None:
        """An engine *counted* the tokens of a prompt that is so large by rule."""
        counted -= exact
        if counted <= 0 or counted > 100_000_000:
            return
        if not media:
            if text >= _LEAST_TOKENS:
                self._text.learn(text, counted)
            return
        rest = counted - text * self._text.value
        # Where the text is most of it, what is left is its error.
        if rest > 0 and media * self._media.value > 0.2 * text * self._text.value:
            self._media.learn(media, rest)
