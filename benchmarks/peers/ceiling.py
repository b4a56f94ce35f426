"""A ceiling: one process a core doing nothing but decoding, or nothing but running the network.

Decoding is featbank's own, from the file to the network's input; the network is what featbank runs,
with one thread, on a batch that is ready.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from side import images, serve

from featbank.backbones.device import available_cores
from featbank.backbones.preprocess import apply
from featbank.backbones.recipe import Column
from featbank.data.decode import decode, read_bytes
from featbank.extraction.allocator import keep_large_blocks
from featbank.extraction.loader import GraphLoader, fastest
from featbank.extraction.run import GRAPH_BATCH, Settings
from featbank.workflows.extract import open_model

SECONDS = 3.0


def work(case: dict[str, Any], connection: Connection) -> None:
    """Measure whenever told to, over some seconds."""
    keep_large_blocks()
    weights = "DEFAULT"
    if case["model"] != "efficientnet_lite0":
        weights = str(Path(case["weights"]) / "torchvision.pth")
    words = {word: case[word] for word in ("runtime", "precision")}
    model = open_model(case["model"], weights=weights, **words)
    paths = images(case)
    size = Settings().batch

    def decoded(start: int) -> np.ndarray:
        some = [paths[(start + i) % len(paths)] for i in range(size)]
        return np.stack(
            [
                apply(model.preprocess, decode(read_bytes(path), model.policy, grey=True))
                for path in some
            ]
        )

    step: Callable[[int], Any] = decoded
    if case["part"] == "network":
        columns = [Column()]
        loader = fastest(model.loader, columns, device="cpu")
        network = loader.load("cpu")
        size = GRAPH_BATCH if isinstance(loader, GraphLoader) else size
        batch = decoded(0)
        network.run(batch, columns)

        def embedded(start: int) -> Any:
            return network.run(batch, columns)

        step = embedded
    start = os.getpid()  # every process begins with other files
    connection.send(None)
    while connection.recv():
        began, n = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS:
            step(start + n)
            n += size
        connection.send(n / (time.perf_counter() - began))


def load(case: dict[str, Any]) -> Callable[[], tuple[None, dict[str, Any]]]:
    """Start one process a core."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(available_cores()):
        ours, theirs = context.Pipe()
        context.Process(target=work, args=(case, theirs), daemon=True).start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()

    def run() -> tuple[None, dict[str, Any]]:
        for pipe in pipes:
            pipe.send(True)
        return None, {"rate": sum(pipe.recv() for pipe in pipes)}

    return run


if __name__ == "__main__":
    serve(load, "featbank")
