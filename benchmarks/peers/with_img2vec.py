"""img2vec: Img2Vec.get_vec of lists of images, as in its README.

It asks torchvision for the published weights; they are laid where torch.hub looks for them.
Img2Vec (1.0.2) squashes every image to 224 x 224 with no crop, whatever the weights' transform is,
so its features are others.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from img2vec_pytorch import Img2Vec
from PIL import Image
from side import BATCH, CannotRun, images, serve
from torchvision.models import get_model_weights


def load(case: dict[str, Any]) -> Callable[[], tuple[np.ndarray, dict[str, Any]]]:
    """Build the embedder, which loads its network."""
    model = case["model"]
    if model not in Img2Vec.RESNET_OUTPUT_SIZES:
        raise CannotRun(f"img2vec has no {model}")
    with tempfile.TemporaryDirectory() as home:
        os.environ["TORCH_HOME"] = home
        place = Path(home) / "hub" / "checkpoints"
        place.mkdir(parents=True)
        name = os.path.basename(get_model_weights(model).DEFAULT.url)
        shutil.copy(Path(case["weights"]) / "torchvision.pth", place / name)
        embedder = Img2Vec(model=model)
    paths = images(case)

    def run() -> tuple[np.ndarray, dict[str, Any]]:
        features = []
        for start in range(0, len(paths), BATCH):
            some = [Image.open(path).convert("RGB") for path in paths[start : start + BATCH]]
            features.append(embedder.get_vec(some))
        return np.concatenate(features), {}

    return run


if __name__ == "__main__":
    serve(load, "img2vec_pytorch", "torch", "torchvision")
