"""Quantiles, means and rates of the whole and of its bootstrap resamples.  Pure.

The resamples are drawn over windows of the schedule, not over requests: requests that were under
way together share a queue and a cache, and are no independent evidence.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Histogram bins grow by this factor: a quantile read from one is off by at most 0.25 %.
_BIN_GROWTH = 1.005
_BIN_FLOOR_S = 1e-6

# Resamples that are worked on at once; bounds the memory, whatever the number of values.
_BATCH = 250


@dataclass(frozen=True, slots=True)
class WindowedSample:
    """Values, and how often each came up in each window.

    Attributes:
        values: sorted; shape (V,).
        counts: shape (windows, V).
        owner: the window of each value, where each is there once; spares a matrix product.
    """

    values: Floats
    counts: Floats
    owner: NDArray[np.intp] | None = None

    @property
    def size(self) -> int:
        """How many values there are."""
        return int(self.counts.sum())


def sample(values: Sequence[float], windows: Sequence[int], n_windows: int) -> WindowedSample:
    """Return each value as it is, with the window that it came up in."""
    order = np.argsort(np.asarray(values, dtype=np.float64), kind="stable")
    owner = np.asarray(windows, dtype=np.intp)[order]
    counts = np.zeros((n_windows, len(order)))
    counts[owner, np.arange(len(order))] = 1.0
    return WindowedSample(np.asarray(values, dtype=np.float64)[order], counts, owner)


def binned(
    values: Iterable[Sequence[float]], windows: Sequence[int], n_windows: int
) -> WindowedSample:
    """Return many values, given by groups of one window each, in bins 0.5 % wide.

    For inter-token gaps, of which a request has hundreds.
    """
    groups = [np.asarray(group, dtype=np.float64) for group in values]
    if not any(len(group) for group in groups):
        return WindowedSample(np.zeros(0), np.zeros((n_windows, 0)))
    bins = [_bin(group) for group in groups]
    last = max(int(b.max()) for b in bins if len(b))
    counts = np.zeros((n_windows, last + 1))
    for own, window in zip(bins, windows, strict=True):
        counts[window] += np.bincount(own, minlength=last + 1)
    edges = _BIN_FLOOR_S * _BIN_GROWTH ** np.arange(last + 1)
    # Values below the floor, such as two events in one read, count as no time at all.
    centres = np.where(np.arange(last + 1) == 0, 0.0, edges * _BIN_GROWTH**-0.5)
    used = counts.sum(axis=0) > 0
    return WindowedSample(centres[used], counts[:, used])


def _bin(values: Floats) -> NDArray[np.intp]:
    above = np.maximum(values, _BIN_FLOOR_S) / _BIN_FLOOR_S
    found: NDArray[np.intp] = np.ceil(np.log(above) / np.log(_BIN_GROWTH) - 1e-9).astype(np.intp)
    return found


def resamples(n_windows: int, n: int, block: int, seed: int) -> Floats:
    """Return how often each window is in each of *n* resamples; shape (n, windows).

    Circular blocks of *block* neighbouring windows are drawn with replacement, so that what
    carries over from one window to the next is kept.  Row sums are all equal to *n_windows*, up to
    the last block's overhang.
    """
    rng = np.random.default_rng(seed)
    block = max(1, min(block, n_windows))
    draws = -(-n_windows // block)
    starts = rng.integers(0, n_windows, (n, draws))
    windows = (starts[:, :, None] + np.arange(block)) % n_windows
    windows = windows.reshape(n, -1)[:, :n_windows]
    weights = np.zeros((n, n_windows))
    np.add.at(weights, (np.arange(n)[:, None], windows), 1.0)
    return weights


def quantile(of: WindowedSample, q: float, weights: Floats | None = None) -> Floats:
    """Return the *q* quantile of each resample in *weights*; of the whole, without them.

    Linear between neighbours, as numpy's and genai-perf's.  NaN where a resample has no value.
    """
    rows = np.ones((1, of.counts.shape[0])) if weights is None else weights
    if not len(of.values):
        return np.full(len(rows), np.nan)
    batches = (rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH))
    return np.concatenate([_quantiles(of.values, _drawn(of, batch), q) for batch in batches])


def _drawn(of: WindowedSample, weights: Floats) -> Floats:
    """Return how often each value is in each resample; shape (resamples, V)."""
    return weights @ of.counts if of.owner is None else weights[:, of.owner]


def _quantiles(values: Floats, counts: Floats, q: float) -> Floats:
    upto = np.cumsum(counts, axis=1)
    position = np.maximum(upto[:, -1] - 1.0, 0.0) * q
    low = np.floor(position)
    below = np.count_nonzero(upto <= low[:, None], axis=1)
    above = np.count_nonzero(upto <= low[:, None] + 1.0, axis=1)
    last = len(values) - 1
    lower, upper = values[np.minimum(below, last)], values[np.minimum(above, last)]
    # The largest value has no neighbour above it, and no way to go to one.
    found: Floats = np.where(upto[:, -1] > 0, lower + (position - low) * (upper - lower), np.nan)
    return found


def mean(of: WindowedSample, weights: Floats | None = None) -> Floats:
    """Return the mean of each resample; of the whole, without *weights*."""
    return rate(of.counts @ of.values, of.counts.sum(axis=1), weights)


def rate(amounts: Floats, per: Floats, weights: Floats | None = None) -> Floats:
    """Return the sum of *amounts* over the sum of *per*, both by window, for each resample."""
    rows = np.ones((1, len(amounts))) if weights is None else weights
    below = rows @ per
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(below > 0, (rows @ amounts) / below, np.nan)
    return found
