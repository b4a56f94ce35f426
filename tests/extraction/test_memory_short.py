"""A network that has too little memory for a batch gets smaller ones, and the same features."""

from __future__ import annotations

import numpy as np
import pytest

from featbank.errors import ExtractionError
from featbank.extraction.task import Embedder
from tests.extraction.fakes import PENULTIMATE, FakeNetwork

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 8, 8, 3), np.uint8)


class Narrow(FakeNetwork):
    """Has memory for a few images at once."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        object.__setattr__(self, "room", room)
        object.__setattr__(self, "error", error)
        object.__setattr__(self, "sizes", [])

    def run(self, batch, columns):
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise self.error
        return super().run(batch, columns)


ERRORS = [
    MemoryError(),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("Exception from src/plugins: std::bad_alloc"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: str(e)[:12] or "MemoryError")
def test_goes_on_with_smaller_batches(error: Exception) -> None:
    network = Narrow(3, error)
    embedder = Embedder(lambda: network)
    expected = FakeNetwork().run(PIXELS, [PENULTIMATE])[PENULTIMATE]
    for _ in range(2):
        outcome = embedder.embed(PIXELS, [PENULTIMATE])
        assert outcome.good == list(range(13))
        np.testing.assert_allclose(outcome.features[PENULTIMATE], expected, rtol=1e-5)
    # 13 and 6 are too many, and what was learned over the first batch holds for the second.
    assert network.sizes == [13, 6, 3, 3, 3, 3, 1, 3, 3, 3, 3, 1]


def test_says_so_where_there_is_none_for_a_single_image() -> None:
    network = Narrow(0, MemoryError())
    with pytest.raises(ExtractionError, match="too little memory for one image"):
        Embedder(lambda: network).embed(PIXELS, [PENULTIMATE])


def test_other_errors_are_not_taken_for_it() -> None:
    network = Narrow(3, RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        Embedder(lambda: network).embed(PIXELS, [PENULTIMATE])
    assert network.sizes == [13]
