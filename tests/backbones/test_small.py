from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from featbank.backbones import Column, Request, graph, load, resolve
from featbank.backbones.registry import describe, find, list_backbones
from featbank.errors import BackboneError, WeightsUnavailable
from tests.conftest import Tour, run

NAMES = ("small-cnn-3", "small-cnn-4")


def built(name, size, state=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return find(name).provider.build(name, None, (size, size), state)


def test_they_are_listed():
    assert tuple(list_backbones("small-cnn*")) == NAMES
    assert tuple(list_backbones(source="small")) == NAMES


@pytest.mark.parametrize(
    ("name", "features", "side", "parameters"),
    [
        # 3 to 32 to 64 to 64 channels; 150 pixels become 74, 36, 17
        (
            "small-cnn-3",
            128,
            150,
            (27 * 32 + 32)
            + (288 * 64 + 64)
            + (576 * 64 + 64)
            + (64 * 17 * 17 * 128 + 128)
            + (128 * 2 + 2),
        ),
        # 224 pixels become 111, 54, 26, 12
        (
            "small-cnn-4",
            256,
            224,
            (27 * 32 + 32) + 3 * (288 * 32 + 32) + (32 * 12 * 12 * 256 + 256) + (256 * 97 + 97),
        ),
    ],
)
def test_they_have_the_sizes_of_the_tutorials(name, features, side, parameters):
    info = describe(name)

    assert (info.features, info.input_size, info.parameters) == (features, side, parameters)
    assert (info.source, info.weights, info.default, info.local) == ("small", (), None, False)


@pytest.mark.parametrize(
    ("name", "drops"), [("small-cnn-3", []), ("small-cnn-4", [0.25, 0.25, 0.5])]
)
def test_dropout_is_where_the_tutorial_has_it(name, drops):
    network = built(name, 64)

    assert [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)] == drops


@pytest.mark.parametrize("name", NAMES)
def test_features_of_named_layers(name):
    request = Request(name, weights="none", input_size=64)
    backbone = load(request, resolve(request))
    batch = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    columns = [Column(), Column("stage2", "max"), Column("hidden")]

    found = backbone.run(batch, columns)

    network = built(name, 64).eval()
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    with torch.no_grad():
        stages = network[1](network[0](pixels))
        hidden = network[:-1](pixels)
    # The initial weights of seed 0 are those that torch draws from seed 0.
    np.testing.assert_allclose(found[Column()], hidden.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found[Column()], found[Column("hidden")])
    np.testing.assert_allclose(
        found[Column("stage2", "max")], stages.amax((2, 3)).numpy(), atol=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_a_file_bring_their_classes_and_must_fit_the_input(tmp_path, name):
    path = tmp_path / "w.safetensors"
    state = built(name, 64).state_dict()
    state["classifier.weight"] = torch.ones(7, state["classifier.weight"].shape[1])
    state["classifier.bias"] = torch.ones(7)
    save_file(state, path)

    request = Request(name, weights=str(path), input_size=64)
    backbone = load(request, resolve(request))
    assert backbone.network.classifier.out_features == 7

    other = Request(name, weights=str(path))
    with pytest.raises(BackboneError, match="give the --input-size that it was trained with"):
        load(other, resolve(other))


@pytest.mark.parametrize(("name", "least"), [("small-cnn-3", 22), ("small-cnn-4", 46)])
def test_an_input_that_is_pooled_away_is_refused(name, least):
    resolve(Request(name, weights="none", input_size=least))
    with pytest.raises(BackboneError, match=f"from {least} x {least} pixels on, not {least - 1}"):
        resolve(Request(name, weights="none", input_size=least - 1))


def test_there_are_no_published_weights():
    with pytest.raises(WeightsUnavailable, match=r"give --weights none .* trained from scratch"):
        resolve(Request("small-cnn-3"))
    with pytest.raises(BackboneError, match="no weights 'IMAGENET1K_V1'"):
        resolve(Request("small-cnn-3", weights="IMAGENET1K_V1"))


@pytest.mark.skipif(not graph.available(), reason="needs the extra openvino")
@pytest.mark.parametrize("name", NAMES)
def test_their_graphs_compute_the_same(name):
    request = Request(name, weights="none", input_size=64)
    recipe = resolve(request)
    backbone = load(request, recipe)
    columns = [Column(), Column("stage2")]
    batch = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)

    made = graph.make(backbone, columns).run(batch, columns)

    for column, values in backbone.run(batch, columns).items():
        np.testing.assert_allclose(made[column], values, rtol=1e-4, atol=1e-5)


def test_a_bank_of_one_can_be_made(tour: Tour, tmp_path: Path) -> None:
    bank = tmp_path / "bank"
    words = ("--model", "small-cnn-3", "--weights", "none", "--input-size", "32", "--workers", "0")
    made = run(
        "extract", tour.data, *words, "--bank", bank, "--layers", "stage3,penultimate", "--json"
    )

    assert made.json["computed"] == 15
    again = run("extract", tour.data, *words, "--bank", bank, "--layers", "penultimate", "--json")
    assert again.json["computed"] == 0
