"""thingsvision: an extractor of the caller's model, its own ImageDataset and DataLoader."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from networks import eager
from side import BATCH, serve
from thingsvision import get_extractor_from_model
from thingsvision.utils.data import DataLoader, ImageDataset


class _Timed(DataLoader):
    """Knows when the run proper began: before it, thingsvision makes one batch to look at it."""

    began = 0.0

    def __iter__(self) -> Iterator[Any]:
        self.began = time.perf_counter()
        return super().__iter__()


def load(case: dict[str, Any]) -> Callable[[], tuple[np.ndarray, dict[str, Any]]]:
    """Load the network."""
    network, transform, last = eager(case)
    extractor = get_extractor_from_model(model=network, device="cpu", backend="pt")

    def run() -> tuple[np.ndarray, dict[str, Any]]:
        with tempfile.TemporaryDirectory() as names:
            dataset = ImageDataset(case["folder"], names, backend="pt", transforms=transform)
        batches = _Timed(dataset=dataset, batch_size=BATCH, backend="pt")
        features = extractor.extract_features(
            batches=batches, module_name=last, flatten_acts=True, output_type="ndarray"
        )
        return features, {"rate": len(features) / (time.perf_counter() - batches.began)}

    return run


if __name__ == "__main__":
    serve(load, "thingsvision", "torch", "numpy")
