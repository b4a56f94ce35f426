from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from featbank.backbones import from_module
from featbank.backbones.recipe import Column, Preprocess
from featbank.backbones.runtime import Backbone
from featbank.backbones.views import VIEW_SETS, VIEWS, check_square, turned, views_named
from featbank.errors import BackboneError
from tests.tiny import PREPROCESS, TinyNet

PILLOW = {
    "hflip": Image.Transpose.FLIP_LEFT_RIGHT,
    "vflip": Image.Transpose.FLIP_TOP_BOTTOM,
    "rot90": Image.Transpose.ROTATE_90,
    "rot180": Image.Transpose.ROTATE_180,
    "rot270": Image.Transpose.ROTATE_270,
    "transpose": Image.Transpose.TRANSPOSE,
    "transverse": Image.Transpose.TRANSVERSE,
}
BATCH = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_what_pillow_makes_of_the_image(view: str) -> None:
    images = [Image.fromarray(pixels) for pixels in BATCH]
    if view != "identity":
        images = [image.transpose(PILLOW[view]) for image in images]

    wanted = np.stack([np.asarray(image) for image in images])
    np.testing.assert_array_equal(turned(BATCH, view), wanted)
    tensor = torch.from_numpy(BATCH)
    np.testing.assert_array_equal(turned(tensor, view).numpy(), wanted)
    first = turned(tensor.permute(0, 3, 1, 2), view, axes=(2, 3))
    np.testing.assert_array_equal(first.permute(0, 2, 3, 1).numpy(), wanted)


def test_sets_of_views_begin_with_the_image_as_it_is() -> None:
    assert {word: len(views) for word, views in VIEW_SETS.items()} == {
        "identity": 1,
        "flips": 4,
        "d4": 8,
    }
    assert all(views_named(word)[0] == "identity" for word in VIEW_SETS)
    with pytest.raises(BackboneError, match="no views 'flip': did you mean flips"):
        views_named("flip")
    with pytest.raises(BackboneError, match="no view 'hflp': did you mean hflip"):
        Column(view="hflp")


def test_quarter_turns_need_a_square() -> None:
    wide = BATCH[:, :20]
    assert turned(wide, "rot180").shape == wide.shape
    with pytest.raises(BackboneError, match=r"view rot90 needs a square input, and .* 20 x 32"):
        turned(wide, "rot90")
    oblong = Preprocess(32, "short", (20, 32), "bilinear", (0.5,) * 3, (0.5,) * 3)
    check_square([Column(view="vflip")], oblong)
    with pytest.raises(BackboneError, match="take --views flips, or a square --crop"):
        check_square([Column(), Column(view="transpose")], oblong)


@pytest.mark.parametrize("views", VIEW_SETS)
def test_each_view_is_one_more_forward_pass_of_the_turned_images(views: str) -> None:
    network = TinyNet().eval()
    backbone = Backbone(network, PREPROCESS, recipe=None, classifier="fc")
    columns = [Column(layer, view=v) for v in VIEW_SETS[views] for layer in ("stage1", "stage2")]

    found = backbone.run(BATCH, columns)

    assert list(found) == columns
    assert network.calls == len(VIEW_SETS[views])
    for column in columns:
        alone = backbone.run(turned(BATCH, column.view).copy(), [Column(column.layer)])
        np.testing.assert_array_equal(found[column], alone[Column(column.layer)])


def test_views_of_what_a_function_prepared_turn_height_and_width() -> None:
    def as_floats(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255

    backbone = from_module(TinyNet(), transform=as_floats)
    batch = np.stack([backbone.prepare(Image.fromarray(pixels)) for pixels in BATCH])
    turned_batch = np.stack(
        [backbone.prepare(Image.fromarray(pixels)) for pixels in turned(BATCH, "rot90")]
    )

    found = backbone.run(batch, [Column(view="rot90")])[Column(view="rot90")]
    np.testing.assert_array_equal(found, backbone.run(turned_batch, [Column()])[Column()])
