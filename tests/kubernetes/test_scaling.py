"""Autoscaling by arithmetic: the HPA's own formula on the ScaledObject's numbers."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kubernetes.manifests import read

# kube-controller-manager's defaults.
SYNC_S = 15
TOLERANCE = 0.1

# How long a replica loads before it takes requests.
LOAD_S = 120

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class LoadedEngines:
    """Requests in the engines: running up to the slots of the loaded ones, the rest waiting."""

    in_flight: float
    slots: int

    def running(self, loaded: int) -> float:
        return min(self.in_flight, self.slots * loaded)

    def waiting(self, loaded: int) -> float:
        return self.in_flight - self.running(loaded)


def scaled_object() -> dict[str, Any]:
    spec: dict[str, Any] = read("model_server/replicated/autoscaling.yaml")["spec"]
    return spec


def scalings(
    load: Callable[[int], float], signal: Callable[[LoadedEngines, int], float], threshold: float
) -> list[tuple[int, int]]:
    """Return (second, replicas) of every change in six hours: autoscaling/v2 with AverageValue."""
    spec = scaled_object()
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    window_s, (policy,) = down["stabilizationWindowSeconds"], down["policies"]
    replicas, loaded_at = spec["minReplicaCount"], [0] * spec["minReplicaCount"]
    wishes: list[tuple[int, int]] = []
    changes: list[tuple[int, int]] = []
    for now in range(0, 6 * HOUR_S, SYNC_S):
        loaded = max(1, sum(moment <= now for moment in loaded_at))
        value = signal(LoadedEngines(load(now), 64), loaded)
        ratio = value / (threshold * replicas)
        wanted = replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(value / threshold)
        wanted = min(max(wanted, spec["minReplicaCount"]), spec["maxReplicaCount"])
        wishes = [(then, wish) for then, wish in wishes if then > now - window_s] + [(now, wanted)]
        wanted = max(wanted, min(replicas, max(wish for _, wish in wishes)))
        recent = [then for then, count in changes if then > now - policy["periodSeconds"]]
        if wanted < replicas:
            wanted = replicas if recent else replicas - policy["value"]
        if wanted != replicas:
            changes.append((now, wanted))
            loaded_at = loaded_at[:wanted] + [now + LOAD_S] * (wanted - replicas)
            replicas = wanted
    return changes


def running_and_waiting(engines: LoadedEngines, loaded: int) -> float:
    return engines.running(loaded) + engines.waiting(loaded)


def waiting_alone(engines: LoadedEngines, loaded: int) -> float:
    return engines.waiting(loaded)


def threshold() -> float:
    return float(scaled_object()["triggers"][0]["metadata"]["threshold"])


def test_the_signal_is_what_the_engines_hold() -> None:
    """Running and waiting, of the platform's own pods."""
    query = scaled_object()["triggers"][0]["metadata"]["query"]

    named = re.findall(r"vllm:num_requests_(\w+)\{namespace=\"llama-platform\"\}", query)
    assert sorted(named) == ["running", "waiting"]


@pytest.mark.parametrize("in_flight", [0, 1, 10, 31, 33, 36, 48, 63, 70, 90, 128, 500])
def test_constant_load_scales_once_at_most(in_flight: int) -> None:
    """In six hours, whatever the load."""
    assert len(scalings(lambda _: in_flight, running_and_waiting, threshold())) <= 1


def test_waiting_alone_would_flap() -> None:
    """The rule above can fail: by waiting requests, each scaling undoes its own reason."""
    assert len(scalings(lambda _: 90, waiting_alone, 4.0)) > 20


def test_a_day_like_load_is_followed_and_left() -> None:
    """Out as it rises, in as it falls, once each."""

    def day(now: int) -> float:
        return 60 * (1 - math.cos(2 * math.pi * now / (6 * HOUR_S))) / 2

    counts = [replicas for _, replicas in scalings(day, running_and_waiting, threshold())]

    assert counts == [2, 1]


def test_a_replica_is_not_let_go_for_a_short_lull() -> None:
    """Five minutes without requests, every half hour: it would be missed when they come back."""
    changes = scalings(lambda now: 0 if now % 1800 < 300 else 60, running_and_waiting, threshold())

    assert [replicas for _, replicas in changes] == [2]
