"""timm's own loop, as in its inference.py: create_dataset, create_loader, inference_mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from networks import TIMM, data_config
from side import BATCH, serve


def load(case: dict[str, Any]) -> Callable[[], tuple[np.ndarray, dict[str, Any]]]:
    """Load the network in timm's form, with the transform of the reference in timm's words."""
    network = timm.create_model(TIMM[case["model"]])
    network.load_state_dict(torch.load(Path(case["weights"]) / "timm.pth", weights_only=True))
    network.reset_classifier(0)
    network.eval()
    config = data_config(case["model"])
    device = torch.device("cpu")

    def run() -> tuple[np.ndarray, dict[str, Any]]:
        loader = timm.data.create_loader(
            timm.data.create_dataset("", root=case["folder"]),
            batch_size=BATCH,
            use_prefetcher=True,
            num_workers=2,
            device=device,
            **config,
        )
        features = []
        with torch.inference_mode():
            for batch, _ in loader:
                features.append(network(batch).numpy())
        return np.concatenate(features), {}

    return run


if __name__ == "__main__":
    serve(load, "timm", "torch")
