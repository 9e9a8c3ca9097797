"""What a choice costs, with all that is learnt from it: `python -m tests.servekit.routing.cost`."""

import time
from random import Random

from servekit.routing.load_tracker import LoadTracker, Pool
from servekit.routing.registry import POLICY_NAMES, policy_named
from servekit.routing.request import RouteRequest

CHOICES = 3000
ROUNDS = 7


def seconds(name: str, replicas: int) -> float:
    """Return the CPU time of one choice by the policy *name*, the best of some rounds."""
    tracker = LoadTracker(period_s=0.2)
    pool = Pool(tracker.load_of(f"r{number}") for number in range(replicas))
    policy = policy_named(name, Random(0))
    best = float("inf")
    for _ in range(ROUNDS):
        begun_s = time.process_time()
        for number in range(CHOICES):
            request = RouteRequest("m", 18)
            now_s = float(number)
            replica = pool.named(policy.choose(request, pool, now_s).replica)
            assert replica is not None
            policy.sent(request, replica, now_s)
            held = tracker.begin(replica, request.prompt_tokens)
            tracker.first_byte(held)
            policy.answered(request, replica, 0.01 + number % 7 * 0.001)
            tracker.end(held)
        best = min(best, (time.process_time() - begun_s) / CHOICES)
    return best


def main() -> None:
    for name in POLICY_NAMES:
        costs = "  ".join(f"{1e6 * seconds(name, replicas):8.2f}" for replicas in (2, 8, 32))
        print(f"{name:16}{costs}  us, of 2, 8 and 32 replicas")  # noqa: T201


if __name__ == "__main__":
    main()
