"""What was known of the chosen replica's cache when a request was routed.  Pure."""

from loadbalancer.balancing.replicas import RoutableRequest
from loadbalancer.observe.decision_log import RouteReceipt


def receipt_of(routable: RoutableRequest, replica: str) -> RouteReceipt:
    """Return how much of the prompt of *routable* is cached at *replica*, and how that is known."""
    route = routable.route
    exact = route.exact
    if exact is not None and (held := exact.blocks_at(replica)) is not None:
        return RouteReceipt(held, 0, 0, len(exact.chain), exact.block_tokens)
    held = routable.policy.hit_blocks(route, replica)
    blocks = len(route.blocks)
    return RouteReceipt(0, held, blocks - held, blocks, route.block_tokens)
