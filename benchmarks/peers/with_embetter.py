"""embetter: ImageLoader and TimmEncoder in a pipeline, as in its documentation.

TimmEncoder asks timm for the published weights. Only where timm finds them is changed: a file,
with the transform of the reference beside them. TimmEncoder (0.9.1) never calls eval(), and takes
images one by one, gradients recorded: where a network has BatchNorm, each image is normalised by
its own statistics, and its features are others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
from networks import TIMM, data_config
from side import images, serve


def load(case: dict[str, Any]) -> Callable[[], tuple[np.ndarray, dict[str, Any]]]:
    """Build the pipeline."""
    overlay = {"file": str(Path(case["weights"]) / "timm.pth"), **data_config(case["model"])}
    timm.create_model = functools.partial(timm.create_model, pretrained_cfg_overlay=overlay)
    from embetter.vision import ImageLoader, TimmEncoder
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(ImageLoader(), TimmEncoder(TIMM[case["model"]]))
    paths = images(case)
    return lambda: (pipeline.fit_transform(paths), {})


if __name__ == "__main__":
    serve(load, "embetter", "timm", "torch")
