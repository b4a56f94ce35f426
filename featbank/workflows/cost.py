"""Cost: how long a network takes for the features of a column, measured here and now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featbank.backbones.recipe import Column
from featbank.bank.recipes import KnownRecipe
from featbank.errors import BackboneError

if TYPE_CHECKING:
    from featbank.backbones.runtime import Backbone

__all__ = ["network_milliseconds"]

BATCH = 8
TIMES = 3


def network_milliseconds(known: KnownRecipe, columns: Sequence[Column]) -> dict[Column, float]:
    """Measure a recipe's network on one thread, up to the layer of each column.

    It is the time of one core, whatever else the machine does. Images are random, decoding is not
    part of it, and the runtime is torch on the CPU: what is told is how columns compare, not how
    long an extraction takes. Of three runs of 8 images the fastest counts.

    Returns
    -------
    dict of Column to float
        Milliseconds an image.

    Raises
    ------
    BackboneError
        The bank doesn't say how to build the network, or its weights are not there.
    """
    import torch

    from featbank.backbones.request import Request
    from featbank.backbones.runtime import load

    words = known.provenance.get("request", {})
    if "decode" not in words:
        raise BackboneError(
            f"{known.slug} was made in Python, and the bank doesn't say how to build it again."
        )
    backbone = load(Request.from_dict(words), known.recipe)
    shape = (BATCH, *known.recipe.preprocess.crop, 3)
    batch = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {column: _fastest(backbone, batch, column) for column in columns}
    finally:
        torch.set_num_threads(threads)


def _fastest(backbone: Backbone, batch: npt.NDArray[np.uint8], column: Column) -> float:
    backbone.run(batch, [column])  # the first pass goes to the end of the network
    found = []
    for _ in range(TIMES):
        start = time.process_time()
        backbone.run(batch, [column])
        found.append(time.process_time() - start)
    return 1000 * min(found) / len(batch)
