"""featbank: into a new bank each time, through the workers of a long run."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import marks
import numpy as np
from side import serve

from featbank.bank.bank import Bank
from featbank.extraction import run as extraction
from featbank.workflows.extract import extract_to, open_model, parse_columns, run_settings
from featbank.workflows.survey import open_sources


def load(case: dict[str, Any]) -> Callable[[], tuple[np.ndarray, dict[str, Any]]]:
    """Find the recipe, and make its graph by embedding one image."""
    extraction.FEW = 0  # hundreds of images stand here for millions
    weights = "DEFAULT"
    if case["model"] != "efficientnet_lite0":
        weights = str(Path(case["weights"]) / "torchvision.pth")
    words = {word: case[word] for word in ("runtime", "precision")}
    model = open_model(case["model"], weights=weights, **words)

    def embed(folder: str, bank: str, **words: Any) -> float:
        settings = run_settings(decode=marks.decode, **words)
        columns = parse_columns(None)
        with tempfile.TemporaryDirectory() as notes:
            os.environ[marks.FOLDER] = notes
            extract_to(bank, open_sources(folder), model, columns, settings=settings)
            if settings.workers == 0:
                return 0.0
            return marks.steady_rate(Path(notes))

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as bank:
        embed(case["one"], bank, workers=0)
    first = {"first_image_seconds": time.perf_counter() - began}

    def run() -> tuple[np.ndarray, dict[str, Any]]:
        with tempfile.TemporaryDirectory() as bank:
            began = time.perf_counter()
            rate = embed(case["folder"], bank)
            seconds = time.perf_counter() - began
            return Bank(bank).features(), {"rate": rate, "extraction_seconds": seconds, **first}

    return run


if __name__ == "__main__":
    serve(load, "featbank", "torch", "openvino", "pillow")
