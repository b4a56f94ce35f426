"""The script that people write: ImageFolder, DataLoader, the eager network, np.concatenate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from networks import eager
from side import BATCH, serve
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder


def load(case: dict[str, Any]) -> Callable[[], tuple[np.ndarray, dict[str, Any]]]:
    """Load the network."""
    network, transform, _ = eager(case)

    def run() -> tuple[np.ndarray, dict[str, Any]]:
        data = DataLoader(
            ImageFolder(case["folder"], transform), batch_size=BATCH, num_workers=case["workers"]
        )
        features = []
        with torch.no_grad():
            for batch, _ in data:
                features.append(network(batch).numpy())
        return np.concatenate(features), {}

    return run


if __name__ == "__main__":
    serve(load, "torch", "torchvision", "pillow")
