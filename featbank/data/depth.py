"""Depth: samples of more than 8 bits, brought to 8 bits with their contrast kept.

The rule, for 16-bit and 32-bit integers and for floats, grey or colour: the image's own range is
mapped linearly onto 0..255. The range runs from the ``n // 10000 + 1``-th smallest to the
``n // 10000 + 1``-th largest of its n finite samples, all channels together; what lies outside is
clipped. NaN becomes 0.

Why the image's own range, and not the container's: a 12-bit camera writes 0..4095 into 16 bits, a
thermal camera 29,000..31,000, and a float has no range by itself; divided by 257 the first comes
out nearly black and the second as eight greys. The price is the absolute brightness, which a
network trained on 8-bit photographs, auto-exposed as they are, does not need. Why one in ten
thousand is left aside: a single hot pixel would otherwise darken the whole image. Images of fewer
than 10,000 samples are mapped from minimum to maximum.

A constant image has no contrast to keep: it comes out as the grey of its value within 0..65535
(integers) or 0..1 (floats).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["to_8bit"]

OUTLIERS = 10_000
"""One sample in so many is left aside at either end."""

_PART = 1 << 20  # samples that are mapped at a time


def to_8bit(samples: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Map samples of any integer or float type onto 0..255 by the rule of this module.

    Parameters
    ----------
    samples : ndarray
        Of any shape, not empty.

    Returns
    -------
    ndarray of uint8
        Of the same shape. Order is kept: what was not darker is not darker.

    Examples
    --------
    >>> to_8bit(np.array([0, 2048, 4096], dtype=np.uint16))
    array([  0, 128, 255], dtype=uint8)
    """
    with np.errstate(all="ignore"):  # a signalling NaN would warn as it is cast
        return _mapped(samples)


def _mapped(samples: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    integers = samples.dtype.kind in "iu"
    few_values = integers and samples.dtype.itemsize <= 2
    limits = _range_of_few(samples) if few_values else _range(samples)
    eight = np.zeros(samples.shape, np.uint8)
    if limits is None:
        return eight
    low, high = limits
    if low == high:
        low, high = 0.0, 65535.0 if integers else 1.0
    kind = np.iinfo(samples.dtype) if few_values else None
    if kind is not None:
        # All values there can be, mapped once: 30 times fewer divisions than pixels.
        table = _stretch(np.arange(kind.min, kind.max + 1, dtype=np.float64), low, high)
    for part in _parts(samples):
        if kind is not None:
            eight[part] = table[samples[part].astype(np.intp) - kind.min]
        else:
            eight[part] = _stretch(samples[part].astype(np.float64), low, high)
    return eight


def _parts(samples: npt.NDArray[Any]) -> Iterator[slice]:
    """Cut an array along its first axis: what is computed of a part takes eight times its room."""
    each = max(1, _PART * len(samples) // samples.size)
    return (slice(start, start + each) for start in range(0, len(samples), each))


def _range_of_few(samples: npt.NDArray[Any]) -> tuple[float, float]:
    """Return what is mapped to 0 and to 255, by counting each of at most 65,536 values."""
    least = int(np.iinfo(samples.dtype).min)
    counts = np.zeros(1 << 8 * samples.dtype.itemsize, np.int64)
    for part in _parts(samples):
        values = samples[part].ravel().astype(np.intp) - least
        counts += np.bincount(values, minlength=len(counts))
    upto, aside = np.cumsum(counts), samples.size // OUTLIERS
    low = np.searchsorted(upto, aside, side="right")
    high = np.searchsorted(upto, samples.size - 1 - aside, side="right")
    if low == high:  # nearly everything is one value: what differs is the whole contrast
        low, high = np.flatnonzero(counts)[[0, -1]]
    return float(low + least), float(high + least)


def _range(samples: npt.NDArray[Any]) -> tuple[float, float] | None:
    """Return what is mapped to 0 and to 255; None where no sample is finite."""
    if samples.dtype.kind in "iu":
        finite = samples.ravel()
    else:
        there = np.isfinite(samples)
        finite = samples.ravel() if there.all() else samples[there]
    if finite.size == 0:
        return None
    aside = finite.size // OUTLIERS
    if not aside:
        return float(finite.min()), float(finite.max())
    # Order statistics, not interpolated quantiles: the same bits on every machine.
    ordered = np.partition(finite, (aside, finite.size - 1 - aside))
    low, high = float(ordered[aside]), float(ordered[finite.size - 1 - aside])
    if low == high:  # nearly everything is one value: what differs is the whole contrast
        low, high = float(finite.min()), float(finite.max())
    return low, high


def _stretch(samples: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.uint8]:
    # Clipped before anything is subtracted: floats near the largest would overflow.
    clipped = np.clip(np.nan_to_num(samples, nan=low, posinf=high, neginf=low), low, high)
    half = np.maximum(high / 2 - low / 2, np.finfo(np.float64).tiny)
    share = (clipped / 2 - low / 2) / half
    eight: npt.NDArray[np.uint8] = np.floor(share * 255 + 0.5).astype(np.uint8)
    return eight
