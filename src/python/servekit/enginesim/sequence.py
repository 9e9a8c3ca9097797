"""A request, and what an engine knows of it while it holds it.  Pure values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What an engine must know of a request.

    Attributes:
        output_tokens: tokens after which it ends, at least 1.
        segments: chained hash of each full segment of the prompt, from its beginning.
    """

    id: int
    prompt_tokens: int
    output_tokens: int
    segments: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class Sequence:
    """A request in an engine.

    Attributes:
        arrived_s: when it was submitted.
        admitted_s: when it was first scheduled.
        first_token_s: when its first token came out.
        emitted: tokens that came out, not counting the run in progress.
        preemptions: how often it was computed anew.
        cached_tokens: prompt tokens found in the prefix cache at first admission.
        gone: it was aborted; its further tokens have no reader.
    """

    request: EngineRequest
    arrived_s: float
    order: int
    admitted_s: float = -1.0
    first_token_s: float = -1.0
    emitted: int = 0
    preemptions: int = 0
    cached_tokens: int = 0
    # Tokens to compute before the next one can be sampled: the prompt, after a preemption also
    # what was generated.
    target: int = 0
    # Tokens in the KV cache, up to the tick at which decoding began.
    computed: int = 0
    held: int = 0
    joined: int = -1
    ends_at: int = -1
    ticket: int = -1
    gone: bool = False
