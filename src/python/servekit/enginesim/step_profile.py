"""How long a step of an engine takes.  Pure.

A profile is a set of measured knots with straight lines between them, for one model on one GPU
type at one tensor parallel size.  A step has three parts, measured apart and added:

- the forward pass, by the tokens that enter it (weights are read once, then arithmetic grows),
- the decoding sequences, by their number and by the KV cache that their attention reads,
- the attention of prefill tokens over the tokens before them.

A GPU that reads prompts is at its power limit at once, and its clock falls: *heat* is the share of
the last moments in which it did (0.0 to 1.0), and prefill tokens take longer the hotter it is.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace

# Multiples of the golden ratio, modulo 1, fill the unit interval most evenly.
GOLDEN = 0.6180339887498949

Knots = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Seconds of one engine step.

    Attributes:
        name: model, GPU and tensor parallel size, for people.
        forward_s: (prefill tokens in the step, seconds), from 0 upwards; at 0 it is a pure decode
            step without sequences.
        decode_s: (decoding sequences, additional seconds), from 0 upwards.
        kv_token_s: seconds per token of KV cache that decoding sequences read.
        mixed_kv_token_s: as before, in a step that also has prefill tokens.
        attended_pair_s: seconds per pair of a prefill token and a token before it.
        frontend_s: seconds between a request's arrival and its place in the queue, and back: HTTP,
            tokenizer, process hops.
        frontend_token_s: further seconds per prompt token.
        idle_start_s: further seconds of a step that no other one preceded.
        launch_s: seconds in which the CPU launches the kernels of a step that is too large for a
            CUDA graph, equally likely ones; what the step before brought is held back meanwhile.
        hot_token_s: further seconds per prefill token where heat is 1.0.
        hot_after_s: time constant with which heat follows.
        jitter_s: standard deviation of the moment at which a client sees a token.
        window_tokens: tokens that sliding layers look back at most; 0 without such layers.
        window_share: share of the KV cache that is those layers', 0.0 to 1.0.
    """

    name: str
    forward_s: Knots
    decode_s: Knots
    kv_token_s: float
    mixed_kv_token_s: float
    attended_pair_s: float
    frontend_s: float = 0.0
    frontend_token_s: float = 0.0
    idle_start_s: float = 0.0
    launch_s: tuple[float, ...] = ()
    hot_token_s: float = 0.0
    hot_after_s: float = 0.05
    jitter_s: float = 0.0
    window_tokens: int = 0
    window_share: float = 0.0

    def decode_step_s(self, sequences: int, kv_tokens: int) -> float:
        """Return the seconds of a step in which *sequences* decode over *kv_tokens* in all."""
        return (
            self.forward_s[0][1]
            + interpolate(self.decode_s, sequences)
            + self.kv_token_s * self._read(sequences, kv_tokens)
        )

    def growth_s(self, sequences: int, kv_tokens: int) -> float:
        """Return by how much the next decode step of the same sequences is longer."""
        if self.window_tokens and kv_tokens >= sequences * self.window_tokens:
            return self.kv_token_s * (1.0 - self.window_share) * sequences
        return self.kv_token_s * sequences

    def step_s(
        self,
        prefill_tokens: int,
        attended_pairs: float,
        sequences: int,
        kv_tokens: int,
        heat: float = 0.0,
    ) -> float:
        """Return the seconds of a step.

        *attended_pairs* is the sum, over prefill tokens, of the tokens before each.
        """
        if not prefill_tokens:
            return self.decode_step_s(sequences, kv_tokens)
        return (
            interpolate(self.forward_s, prefill_tokens)
            + self.hot_token_s * heat * prefill_tokens
            + self.attended_pair_s * self._read(prefill_tokens, attended_pairs)
            + interpolate(self.decode_s, sequences)
            + self.mixed_kv_token_s * self._read(sequences, kv_tokens)
        )

    def _read(self, tokens: int, before: float) -> float:
        """Return what *tokens* see of *before*, the tokens before each of them in all."""
        if not self.window_tokens:
            return before
        near = min(before, tokens * self.window_tokens)
        return before - (before - near) * self.window_share

    def nth_launch_s(self, number: int) -> float:
        """Return the seconds of the *number*th launch: every value in turn, in an order without a
        pattern, and the same in every run."""
        if not self.launch_s:
            return 0.0
        return self.launch_s[int(number * GOLDEN % 1.0 * len(self.launch_s))]

    def faster(self, factor: float) -> "StepProfile":
        """Return the profile of an engine that is *factor* times as fast in everything."""
        return replace(
            self,
            forward_s=tuple((x, y / factor) for x, y in self.forward_s),
            decode_s=tuple((x, y / factor) for x, y in self.decode_s),
            kv_token_s=self.kv_token_s / factor,
            mixed_kv_token_s=self.mixed_kv_token_s / factor,
            attended_pair_s=self.attended_pair_s / factor,
            frontend_s=self.frontend_s / factor,
            frontend_token_s=self.frontend_token_s / factor,
            idle_start_s=self.idle_start_s / factor,
            launch_s=tuple(y / factor for y in self.launch_s),
            hot_token_s=self.hot_token_s / factor,
            hot_after_s=self.hot_after_s / factor,
            jitter_s=self.jitter_s / factor,
        )


def interpolate(knots: Knots, x: float) -> float:
    """Return the value at *x* on the line through *knots*; the end lines go on beyond them."""
    if len(knots) == 1:
        return knots[0][1]
    place = min(max(bisect_right(knots, (x, float("inf"))), 1), len(knots) - 1)
    (x0, y0), (x1, y1) = knots[place - 1], knots[place]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
