import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from featbank.backbones import preprocess
from featbank.backbones.module import from_module
from featbank.backbones.recipe import Column
from featbank.errors import BackboneError
from tests.tiny import PREPROCESS, TinyNet


def image(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def to_tensor(picture):
    pixels = np.asarray(picture.resize((32, 32)), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def test_a_module_under_a_version_has_a_recipe():
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")
    again = from_module(TinyNet(), transform=PREPROCESS, version="1")
    assert backbone.recipe.backbone == "TinyNet@1"
    assert backbone.recipe == again.recipe
    others = [
        from_module(TinyNet(), transform=PREPROCESS, version="2"),
        from_module(TinyNet(), transform=PREPROCESS, version="1", name="other"),
        from_module(TinyNet(seed=1), transform=PREPROCESS, version="1"),
        from_module(TinyNet(), transform=to_tensor, version="1"),
        from_module(TinyNet(), transform=PREPROCESS, version="1", precision="bfloat16"),
        from_module(TinyNet(), transform=PREPROCESS, version="1", classifier="stage2"),
    ]
    assert len({b.recipe.fingerprint for b in [backbone, *others]}) == len(others) + 1


def test_a_module_without_a_version_is_not_cached_and_says_so(caplog):
    with caplog.at_level(logging.WARNING, "featbank"):
        backbone = from_module(TinyNet(), transform=PREPROCESS)
    assert backbone.recipe is None
    assert "give version=" in caplog.text


def test_the_callers_module_stays_as_it_is():
    network = TinyNet().train()
    before = copy.deepcopy(network.state_dict())
    backbone = from_module(network, transform=PREPROCESS, version="1")
    batch = np.stack([backbone.prepare(image(i)) for i in range(4)])
    features = backbone.run(batch, [Column()])[Column()]
    assert network.training
    assert network.calls == 0
    assert all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    # And training it on does not change the features under the old recipe.
    with torch.no_grad():
        network.stage1[0].weight.add_(1)
    np.testing.assert_array_equal(backbone.run(batch, [Column()])[Column()], features)


def test_the_penultimate_layer_is_the_input_of_the_final_one():
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")
    batch = backbone.prepare(image())[None]
    assert backbone.run(batch, [Column()])[Column()].shape == (1, 12)
    assert backbone.layers()["penultimate"] == (12,)
    headless = TinyNet()
    headless.fc = torch.nn.Identity()
    bare = from_module(headless, transform=PREPROCESS, version="1")
    np.testing.assert_array_equal(
        bare.run(batch, [Column()])[Column()], backbone.run(batch, [Column()])[Column()]
    )
    assert bare.layers()["penultimate"] == (12,)
    named = from_module(TinyNet(), transform=PREPROCESS, version="1", classifier="stage2")
    assert named.run(batch, [Column()])[Column()].shape == (1, 8)


def test_a_function_as_transform_prepares_floats():
    backbone = from_module(TinyNet(), transform=to_tensor, version="1")
    row = backbone.prepare(image())
    assert (row.shape, row.dtype) == ((3, 32, 32), np.float32)
    features = backbone.run(np.stack([row, row]), [Column()])[Column()]
    network = TinyNet().eval()
    with torch.inference_mode():
        expected = network.stage2(network.stage1(to_tensor(image())[None])).mean((2, 3))
    np.testing.assert_allclose(features[:1], expected.numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(BackboneError, match="stack what"):
        backbone.run(np.zeros((1, 32, 32, 3), np.uint8), [Column()])


def test_torchvisions_preset_becomes_data():
    from torchvision.transforms._presets import ImageClassification

    backbone = from_module(
        TinyNet(), transform=ImageClassification(crop_size=32, resize_size=36), version="1"
    )
    np.testing.assert_array_equal(
        backbone.prepare(image()), preprocess.apply(backbone.recipe.preprocess, image())
    )


@pytest.mark.parametrize("transform", [PREPROCESS, to_tensor])
def test_it_pickles_where_the_module_does(transform):
    backbone = from_module(TinyNet(), transform=transform, version="1")
    batch = backbone.prepare(image())[None]
    features = backbone.run(batch, [Column()])[Column()]
    other = pickle.loads(pickle.dumps(backbone))
    assert other.recipe == backbone.recipe
    np.testing.assert_array_equal(
        other.run(other.prepare(image())[None], [Column()])[Column()], features
    )


def test_a_module_in_double_precision_runs():
    backbone = from_module(TinyNet().double(), transform=PREPROCESS, version="1")
    batch = backbone.prepare(image())[None]
    assert backbone.run(batch, [Column()])[Column()].dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transform": None}, "transform= is a featbank Preprocess"),
        ({"transform": PREPROCESS, "version": " "}, "version is empty"),
        ({"transform": PREPROCESS, "classifier": "head"}, "no layer 'head'"),
        ({"transform": PREPROCESS, "precision": "int8"}, "precision is one of"),
    ],
)
def test_arguments_without_sense_are_refused(arguments, message):
    with pytest.raises(BackboneError, match=message):
        from_module(TinyNet(), **arguments)
    with pytest.raises(BackboneError, match=r"made of a torch\.nn\.Module"):
        from_module("resnet50", transform=PREPROCESS)
