"""When requests arrive: times from a rate and a shape.  Pure: random numbers are an argument.

constant            one every 1/rate seconds
poisson             independent users
gamma:CV            like poisson at CV 1; above it bursts, below it regularity
ramp:TO             poisson, from the rate to the rate TO over the whole
burst:SIZE          SIZE at once, as often as the rate asks for
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator

from servekit.errors.tree import SettingInvalid

Arrivals = Callable[[int, random.Random], list[float]]


def read_arrivals(text: str, rate: float) -> Arrivals:
    """Return the shape that *text* names, at *rate* requests a second.

    Raises:
        SettingInvalid: there is no such shape, or its number or the rate cannot be used.
    """
    if not (rate > 0 and math.isfinite(rate)):
        raise SettingInvalid(f"rate is {rate:g}; must be above 0 requests/s")
    name, _, argument = text.partition(":")
    if name in ("constant", "poisson") and not argument:
        return lambda n, rng: _sums(_gaps(name, rate, rng), n)
    if name == "gamma":
        cv = _positive(text, argument or "1")
        return lambda n, rng: _sums(_gamma_gaps(rate, cv, rng), n)
    if name == "ramp":
        to = _positive(text, argument)
        return lambda n, rng: _ramp(n, rate, to, rng)
    if name == "burst":
        size = max(1, round(_positive(text, argument)))
        return lambda n, _: [index // size * size / rate for index in range(n)]
    raise SettingInvalid(
        f"--arrivals must be trace, constant, poisson, gamma:CV, ramp:END_RATE or burst:SIZE, not "
        f"{text!r}"
    )


def _sums(gaps: Iterator[float], n: int) -> list[float]:
    return list(itertools.islice(itertools.accumulate(gaps), n))


def _gaps(name: str, rate: float, rng: random.Random) -> Iterator[float]:
    while True:
        yield rng.expovariate(rate) if name == "poisson" else 1.0 / rate


def _gamma_gaps(rate: float, cv: float, rng: random.Random) -> Iterator[float]:
    """Gaps of mean 1/rate and the given coefficient of variation."""
    shape = 1.0 / cv**2
    while True:
        yield rng.gammavariate(shape, 1.0 / (rate * shape))


def _ramp(n: int, start: float, to: float, rng: random.Random) -> list[float]:
    """Thin no points: stretch a unit-rate process so that its rate grows linearly in time."""
    length_s = 2.0 * n / (start + to)
    growth = (to - start) / length_s
    times = []
    for area in _sums(_gaps("poisson", 1.0, rng), n):
        # The time at which start*t + growth*t*t/2 requests are due.
        root = start**2 + 2.0 * growth * area
        times.append(area / start if abs(growth) < 1e-12 else _solve(start, growth, root, length_s))
    return times


def _solve(start: float, growth: float, root: float, length_s: float) -> float:
    # A falling ramp has given all its requests when its rate reaches zero.
    return (math.sqrt(root) - start) / growth if root > 0 else length_s


def _positive(text: str, number: str) -> float:
    value = above_zero(number)
    if value is None:
        raise SettingInvalid(f"--arrivals {text!r}: {number!r} must be a number above 0")
    return value


def above_zero(text: str) -> float | None:
    """Return the finite number above 0 that *text* is; None if it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value > 0 and math.isfinite(value) else None
