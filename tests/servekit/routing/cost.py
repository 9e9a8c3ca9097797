"""What a choice costs, with all that is learnt from it: `python -m tests.servekit.routing.cost`.

Below the policies: what a large fleet's choice costs for a prompt of 200 KB that all replicas have
read, and the memory that an index of prefixes takes for a block.
"""

import argparse
import time
import tracemalloc
from random import Random

from servekit.routing.load_tracker import LoadTracker, Pool
from servekit.routing.prefix_index import PrefixIndex
from servekit.routing.registry import POLICY_NAMES, policy_named
from servekit.routing.request import RouteRequest

CHOICES = 3000
ROUNDS = 7
# Of 512 bytes: a prompt of 200 KB, 40 KB of which are a user's own.
SHARED_BLOCKS, OWN_BLOCKS = 320, 80


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


def shared_prompt_s(name: str, replicas: int, choices: int = 1000) -> tuple[float, float]:
    """Return the CPU time of a choice, and of a choice with what is learnt from it, where every
    replica has read the first 320 blocks of each prompt of 400."""
    tracker = LoadTracker(period_s=0.2)
    pool = Pool(tracker.load_of(f"r{number}") for number in range(replicas))
    policy, rng = policy_named(name, Random(0)), Random(1)
    shared = blocks_of(rng, SHARED_BLOCKS)
    for holder in pool:
        policy.sent(RouteRequest("m", 40_960, shared), holder, 0.0)
    users = [blocks_of(rng, OWN_BLOCKS) for _ in range(2 * replicas)]
    choosing_s = 0.0
    begun_s = time.process_time()
    for number in range(choices):
        request = RouteRequest("m", 51_200, shared + users[rng.randrange(len(users))])
        asked_s = time.process_time()
        decision = policy.choose(request, pool, float(number))
        choosing_s += time.process_time() - asked_s
        replica = pool.named(decision.replica)
        assert replica is not None
        policy.sent(request, replica, float(number))
        policy.answered(request, replica, 0.01)
    return choosing_s / choices, (time.process_time() - begun_s) / choices


def bytes_per_block(replicas: int, blocks_of_prompt: int, capacity: int = 1000) -> float:
    """Return the memory of a full index, by block of its replicas' caches."""
    rng = Random(2)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    index = PrefixIndex(capacity)
    for _ in range(2 + capacity // blocks_of_prompt):
        for number in range(replicas):
            index.add(f"r{number}", blocks_of(rng, blocks_of_prompt))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / (replicas * capacity)


def blocks_of(rng: Random, number: int) -> tuple[int, ...]:
    return tuple(rng.getrandbits(64) for _ in range(number))


def main() -> None:
    for name in POLICY_NAMES:
        sizes = (2, 8, 32, 500)
        costs = "  ".join(f"{1e6 * seconds(name, replicas):8.2f}" for replicas in sizes)
        print(f"{name:16}{costs}  us, of 2, 8, 32 and 500 replicas")  # noqa: T201
    for name in ("prefix", "latency"):
        choice_s, all_s = shared_prompt_s(name, 500)
        print(  # noqa: T201
            f"{name:16}{1e6 * choice_s:8.2f}  {1e6 * all_s:8.2f}  us, of 500 replicas that have "
            "read 160 KB of 200: choosing, and with what is learnt"
        )
    for blocks in (1, 4, 16, 400):
        size = bytes_per_block(500, blocks)
        print(f"{size:8.1f}  bytes a block, 500 replicas, prompts of {blocks} blocks")  # noqa: T201


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
