"""The batch size of a device is found by trial."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from featbank.extraction.trial import Trial
from tests.extraction.fakes import FakeNetwork, expected, extract, model
from tests.tiny import make_images


def settled(seconds: Callable[[int], float], *, room: int = sys.maxsize) -> tuple[int, list[int]]:
    """Return the size that a trial comes to, and the sizes on the way."""
    trial = Trial()
    sizes = []
    for _ in range(40):
        sizes.append(trial.size)
        trial.took(trial.size, seconds(trial.size), fitting=min(room, sys.maxsize))
    return trial.size, sizes


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (lambda n: 1.0 * n, 32),  # larger batches bring nothing
        (lambda n: 0.1, 512),  # the device is hardly busy at any size
        (lambda n: max(0.1, n / 1280), 128),  # busy from 128 on
        (lambda n: 0.1 + (n / 256) ** 4, 128),  # worse again where caches overflow
    ],
)
def test_takes_the_smallest_size_of_nearly_the_best_rate(seconds, best) -> None:
    size, sizes = settled(seconds)
    assert size == best
    assert max(sizes) <= max(2 * best, 64)


def test_the_first_batch_of_a_size_does_not_count() -> None:
    slow_once: set[int] = set()

    def seconds(n: int) -> float:
        first = n not in slow_once
        slow_once.add(n)
        return 100.0 if first else 0.1

    assert settled(seconds)[0] == 512


def test_a_rest_that_is_smaller_says_nothing() -> None:
    trial = Trial()
    for _ in range(10):
        trial.took(5, 100.0, fitting=sys.maxsize)
    assert trial.size == 32


def test_memory_ends_it() -> None:
    trial = Trial()
    trial.took(32, 0.1, fitting=sys.maxsize)
    trial.took(32, 0.1, fitting=sys.maxsize)
    assert trial.size == 64
    trial.took(64, 9.0, fitting=32)
    assert trial.size == 32
    trial.took(32, 0.001, fitting=32)
    assert trial.size == 32


@dataclass(frozen=True)
class RecordingLoader:
    """Brings a network that keeps the sizes of its batches, and is the faster the larger."""

    sizes: list[int]

    def load(self, device: str) -> FakeNetwork:
        sizes = self.sizes

        class Recording(FakeNetwork):
            def run(self, batch, columns):
                sizes.append(len(batch))
                time.sleep(0.02)
                return super().run(batch, columns)

        return Recording()


def test_a_run_on_an_accelerator_finds_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featbank.workflows.extract.likely_device", lambda device: "cuda")
    make_images(tmp_path / "data", 400)
    sizes: list[int] = []
    own = dataclasses.replace(model(), loader=RecordingLoader(sizes))
    result = extract(tmp_path / "bank", tmp_path / "data", model=own, device="cuda")
    assert result.computed == 400
    assert sizes[0] == 32
    assert max(sizes) >= 64  # larger ones were tried, as soon as those under way were done
    assert sum(sizes) == 400
    np.testing.assert_allclose(result.bank.features(), expected(result.bank.paths), rtol=1e-5)
