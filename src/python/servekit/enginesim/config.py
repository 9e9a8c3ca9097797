"""The arguments of an engine that shape its schedule.  Pure values."""

from dataclasses import dataclass

from servekit.errors.tree import SettingInvalid


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The arguments of `vllm serve` that shape a schedule, and the memory that is left for it.

    Attributes:
        num_blocks: KV-cache blocks of block_size tokens.
        segment_tokens: tokens per hash in `Request.segments`, a multiple of block_size.
        captured_tokens: tokens of the largest step that is a CUDA graph
            (`max_cudagraph_capture_size`).
        max_in_flight: requests waiting or running before others are refused
            (`--max-num-queued-reqs`); None for no limit.
        counts_failed_lookups: whether a waiting request's prompt counts as looked up in the prefix
            cache at each step that has no room for it, as up to vLLM 0.26, not once (0.32).
    """

    num_blocks: int
    max_model_len: int = 8192
    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    block_size: int = 16
    segment_tokens: int = 16
    prefix_caching: bool = True
    async_scheduling: bool = True
    captured_tokens: int = 512
    max_in_flight: int | None = None
    counts_failed_lookups: bool = False

    def __post_init__(self) -> None:
        if self.segment_tokens % self.block_size:
            raise SettingInvalid(
                f"segment_tokens is {self.segment_tokens}; it must be a multiple of block_size "
                f"({self.block_size})"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise SettingInvalid(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}, below max_num_seqs "
                f"({self.max_num_seqs}); every sequence needs a token per step"
            )
