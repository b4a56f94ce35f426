"""Timing: how long one core takes from image files to classes, whatever predicts them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.backbones.recipe import Column
from featbank.bank.reading import as_features
from featbank.data.decode import DecodePolicy, decode, read_bytes
from featbank.extraction.messages import Network

__all__ = ["from_features", "seconds_per_1000"]

SAMPLE = 64
BATCH = 8
LONGEST = 5.0  # seconds; a slow network is timed on fewer images

Array = npt.NDArray[Any]


def seconds_per_1000(predict: Callable[[Sequence[int]], Any], rows: Sequence[int]) -> float:
    """Return the seconds of one core that 1,000 predictions take, whatever else runs.

    Parameters
    ----------
    predict : callable
        Reads and classifies the images of some rows, in this process.
    rows : sequence of int
        Of which up to 64, evenly spread, are taken in batches of 8; the first batch is not timed.
    """
    import torch
    from threadpoolctl import threadpool_limits

    several = np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))
    sample = [rows[i] for i in several]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            predict(sample[:BATCH])
            start, done = time.process_time(), 0
            while done < len(sample) and time.process_time() - start < LONGEST:
                predict(sample[done : done + BATCH])
                done += len(sample[done : done + BATCH])
            return 1000 * (time.process_time() - start) / done
    finally:
        torch.set_num_threads(threads)


def from_features(
    estimator: Any,
    network: Network,
    columns: Sequence[Column],
    paths: Sequence[str],
    policy: DecodePolicy,
) -> Callable[[Sequence[int]], Array]:
    """Return what classifies images of these paths by a network's features and a fitted head."""

    def predict(rows: Sequence[int]) -> Array:
        images = [decode(read_bytes(paths[row]), policy) for row in rows]
        values = network.run(np.stack([network.prepare(image) for image in images]), columns)
        features = as_features(lambda i: values[columns[i]], columns)
        found: Array = estimator.predict(features.astype(np.float32, copy=False))
        return found

    return predict
