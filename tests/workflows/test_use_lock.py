"""Whoever adds rows to a bank, or relies on them, keeps pruning and repair away meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import featbank
from featbank import Bank
from featbank.errors import BankError
from featbank.extraction.run import Settings
from featbank.workflows.embed import embed_images, embed_paths
from featbank.workflows.extract import open_model, parse_columns
from tests.tiny import PREPROCESS, TinyNet, make_images


class Watching(TinyNet):
    """Tries to prune and to repair the bank while it computes; `tried` outlives its copies."""

    def __init__(self, bank: Path, tried: list[str]) -> None:
        super().__init__()
        self.bank, self.note = bank, tried.append

    def forward(self, x):
        for command in (featbank.prune, featbank.repair):
            with pytest.raises(BankError, match="in use"):
                command(self.bank)
            self.note(command.__name__)
        return super().forward(x)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return make_images(tmp_path / "data", 3)


@pytest.fixture
def tried() -> list[str]:
    return []


@pytest.fixture
def network(tmp_path: Path, tried: list[str]) -> Watching:
    return Watching(tmp_path / "bank", tried)


def model(network: Watching) -> featbank.ModuleBackbone:
    return featbank.from_module(network, transform=PREPROCESS, version="1", name="tiny")


def test_an_extraction_keeps_them_away(tmp_path, images, network, tried):
    bank = featbank.extract(tmp_path / "data", model(network), tmp_path / "bank", workers=0)
    assert {"prune", "repair"} == set(tried)
    assert featbank.prune(bank).rows == 0
    assert featbank.repair(bank).quarantined == ()


@pytest.mark.parametrize("embed", ["paths", "images"])
def test_an_estimator_that_adds_features_keeps_them_away(tmp_path, images, network, tried, embed):
    given = images
    if embed == "images":
        given = [Image.open(path).convert("RGB") for path in images]
    found = (embed_paths if embed == "paths" else embed_images)(
        given,
        open_model(model(network)),
        parse_columns(None),
        bank=tmp_path / "bank",
        settings=Settings(workers=0),
    )
    assert found.computed == 3
    assert {"prune", "repair"} == set(tried)
    assert len(featbank.prune(tmp_path / "bank", "tiny").recipes) == 1
    assert Bank(tmp_path / "bank").recipes == []
