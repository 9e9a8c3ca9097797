"""What a policy may know of a request.  Pure."""

import msgspec

from servekit.routing.exact_index import ExactPrompt


class RouteRequest(msgspec.Struct, frozen=True):
    """A request as routing sees it.

    Attributes:
        model: the id that the client sent.
        prompt_tokens: an estimate; 0 where it was not estimated.
        exact: the prompt's tokens and who has them cached, where engines say so.
        media_tokens: how many of them are images and the like.
        blocks: chained hashes of the prompt's blocks, first block first; a block's hash stands
            for everything up to its end.  Empty where the policy does not want them.
        block_tokens: tokens in one block, about.
        session: whose conversation this is; None where the client did not say.
    """

    model: str = ""
    prompt_tokens: int = 0
    blocks: tuple[int, ...] = ()
    block_tokens: int = 128
    session: str | None = None
    media_tokens: int = 0
    exact: ExactPrompt | None = None
