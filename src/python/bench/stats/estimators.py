"""Quantiles, means and rates of sets of windows.  Pure.

Sets are of windows of the schedule, not of requests: requests that were under way together share a
queue and a cache, and are no independent evidence.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Histogram bins grow by this factor: a quantile read from one is off by at most 0.25 %.
_BIN_GROWTH = 1.005
_BIN_FLOOR_S = 1e-6

# What an interval of 95 % leaves out on either side.
_TAIL = 0.025

# Sets that are worked on at once; bounds the memory, whatever the number of values.
_BATCH = 500

# Values that are counted together, before those of one block are looked through one by one.
_BLOCK = 64


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


def joined(samples: Sequence[WindowedSample]) -> WindowedSample:
    """Return several samples as one, the windows of one after those of another."""
    values = np.concatenate([one.values for one in samples])
    order = np.argsort(values, kind="stable")
    counts = np.zeros((sum(len(one.counts) for one in samples), len(values)))
    row = column = 0
    owners = []
    for one in samples:
        height, width = one.counts.shape
        counts[row : row + height, column : column + width] = one.counts
        owners += [None if one.owner is None else one.owner + row]
        row, column = row + height, column + width
    known = [owner for owner in owners if owner is not None]
    owner = np.concatenate(known)[order] if len(known) == len(owners) else None
    return WindowedSample(values[order], counts[:, order], owner)


def values_needed(q: float) -> int:
    """Return how many values the *q* quantile needs, so that an interval of 95 % has both ends:
    in 97.5 % of cases the largest of them lies above it (1 - q^n), and the least below."""
    return math.ceil(math.log(_TAIL) / math.log(max(q, 1.0 - q)))


def quantile(of: WindowedSample, q: float, weights: Floats | None = None) -> Floats:
    """Return the *q* quantile of each set in *weights*, which has a row for each and a column for
    each window; of the whole, without them.

    Linear between neighbours, as numpy's and genai-perf's.  NaN where a set has no value.
    """
    rows = np.ones((1, of.counts.shape[0])) if weights is None else weights
    if not len(of.values):
        return np.full(len(rows), np.nan)
    batches = (rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH))
    return np.concatenate([_quantiles(of, batch, q) for batch in batches])


def _quantiles(of: WindowedSample, weights: Floats, q: float) -> Floats:
    size = weights @ of.counts.sum(axis=1)
    position = np.maximum(size - 1.0, 0.0) * q
    low = np.floor(position)
    upto = np.cumsum(weights @ _by_block(of.counts).sum(axis=2), axis=1)
    lower, upper = (of.values[_at_rank(of, weights, upto, low + step)] for step in (0.0, 1.0))
    # The largest value has no neighbour above it, and no way to go to one.
    found: Floats = np.where(size > 0, lower + (position - low) * (upper - lower), np.nan)
    return found


def _by_block(counts: Floats) -> Floats:
    """Return *counts* by blocks of values, the last filled up; shape (windows, blocks, size)."""
    missing = -counts.shape[1] % _BLOCK
    return np.pad(counts, ((0, 0), (0, missing))).reshape(len(counts), -1, _BLOCK)


def _at_rank(of: WindowedSample, weights: Floats, upto: Floats, rank: Floats) -> NDArray[np.intp]:
    """Return which value has *rank*, counted from 0, in each set; *upto* counts those up to the end
    of each block, so that only one block of each set is looked through."""
    row = np.arange(len(weights))
    block = np.minimum(np.count_nonzero(upto <= rank[:, None], axis=1), upto.shape[1] - 1)
    before = np.where(block > 0, upto[row, block - 1], 0.0)
    place = block[:, None] * _BLOCK + np.arange(_BLOCK)
    inside = before[:, None] + np.cumsum(_drawn(of, weights, place), axis=1)
    found = block * _BLOCK + np.count_nonzero(inside <= rank[:, None], axis=1)
    at: NDArray[np.intp] = np.minimum(found, len(of.values) - 1)
    return at


def _drawn(of: WindowedSample, weights: Floats, place: NDArray[np.intp]) -> Floats:
    """Return how often the value at each *place* is in each set; both have a row for each set."""
    last = np.minimum(place, len(of.values) - 1)
    if of.owner is None:
        often: Floats = np.einsum("sw,wsk->sk", weights, of.counts[:, last])
    else:
        often = np.take_along_axis(weights, of.owner[last], axis=1)
    return np.where(place < len(of.values), often, 0.0)


def mean(of: WindowedSample, weights: Floats | None = None) -> Floats:
    """Return the mean of each set; of the whole, without *weights*."""
    return rate(of.counts @ of.values, of.counts.sum(axis=1), weights)


def rate(amounts: Floats, per: Floats, weights: Floats | None = None) -> Floats:
    """Return the sum of *amounts* over the sum of *per*, both by window, for each set."""
    rows = np.ones((1, len(amounts))) if weights is None else weights
    below = rows @ per
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(below > 0, (rows @ amounts) / below, np.nan)
    return found
