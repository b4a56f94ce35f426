import numpy as np
import pytest
import torch

from featbank.backbones.covariance import triangle
from featbank.backbones.pooling import Layout, pool
from featbank.errors import BackboneError

INPUT = (2, 3, 32, 32)


def pooled(output, pooling, layout=None, input_shape=INPUT):
    return pool(output, pooling, layer="x", layout=layout or Layout(), input_shape=input_shape)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_maps_are_pooled_over_their_positions_wherever_the_channels_are():
    first = random(2, 5, 4, 4)
    last = first.permute(0, 2, 3, 1)
    for output in (first, last):
        torch.testing.assert_close(pooled(output, "avg"), first.mean((2, 3)))
        torch.testing.assert_close(pooled(output, "max"), first.amax((2, 3)))
        torch.testing.assert_close(
            pooled(output, "avgmax"), torch.cat([first.mean((2, 3)), first.amax((2, 3))], 1)
        )
    torch.testing.assert_close(pooled(first, "flatten"), first.flatten(1))


def test_a_map_that_is_a_cube_follows_the_network():
    cube = random(2, 4, 4, 4)
    torch.testing.assert_close(pooled(cube, "avg"), cube.mean((2, 3)))
    torch.testing.assert_close(pooled(cube, "avg", Layout(channels_last=True)), cube.mean((1, 2)))


def test_maps_of_inputs_that_are_not_square_are_told_by_proportion():
    wide = (2, 3, 32, 96)
    first = random(2, 24, 3, 9)
    torch.testing.assert_close(pooled(first, "avg", input_shape=wide), first.mean((2, 3)))
    last = first.permute(0, 2, 3, 1)
    torch.testing.assert_close(pooled(last, "avg", input_shape=wide), first.mean((2, 3)))


def test_generalised_mean_lies_between_mean_and_maximum():
    x = random(2, 5, 4, 4).abs()
    gem = pooled(x, "gem")
    torch.testing.assert_close(gem, x.pow(3).mean((2, 3)).pow(1 / 3))
    assert (gem >= pooled(x, "avg")).all()
    assert (gem <= pooled(x, "max")).all()
    assert pooled(-x, "gem").isfinite().all()


def test_tokens_leave_out_the_class_token_where_the_network_has_one():
    tokens = random(2, 17, 6)
    vit = Layout(patches=16, prefix=1)
    torch.testing.assert_close(pooled(tokens, "avg", vit), tokens[:, 1:].mean(1))
    torch.testing.assert_close(pooled(tokens, "cls", vit), tokens[:, 0])
    torch.testing.assert_close(pooled(tokens, "avg"), tokens.mean(1))
    # Behind the patch embedding there is no class token yet.
    torch.testing.assert_close(pooled(tokens[:, 1:], "avg", vit), tokens[:, 1:].mean(1))
    with pytest.raises(BackboneError, match="without a class token"):
        pooled(tokens[:, 1:], "cls", vit)
    with pytest.raises(BackboneError, match="without a class token"):
        pooled(tokens, "cls", Layout(patches=17, prefix=0))


def test_covariances_are_numpys_wherever_the_channels_are():
    first = 3 + random(2, 5, 4, 4)
    at, weights = triangle(5)
    expected = [
        np.cov(one.flatten(1).double().numpy(), bias=True).ravel()[at] * weights for one in first
    ]
    for output in (first, first.permute(0, 2, 3, 1)):
        np.testing.assert_allclose(pooled(output, "cov"), expected, rtol=1e-5, atol=1e-6)

    tokens = random(2, 17, 6)
    vit = Layout(patches=16, prefix=1)
    np.testing.assert_array_equal(pooled(tokens, "cov", vit), pooled(tokens[:, 1:], "cov", vit))


def test_covariances_are_float32_within_lower_precision():
    output = random(2, 5, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pooled(output, "cov")
    torch.testing.assert_close(found, pooled(output, "cov"), rtol=0, atol=0)


@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax", "gem", "flatten", "none"])
def test_a_vector_stays_as_it_is(pooling):
    vector = random(2, 6)
    torch.testing.assert_close(pooled(vector, pooling), vector)


@pytest.mark.parametrize(
    ("shape", "pooling", "message"),
    [
        ((2, 5, 4, 4), "none", "x:flatten"),
        ((2, 5, 4, 4), "cls", "without a class token"),
        ((2, 5, 3, 4), "avg", "no map of the image"),
        ((2, 2, 5, 4, 4), "avg", "neither a map nor a sequence"),
        ((2, 5, 1, 1), "cov", "layer x has 1 position an image"),
        ((2, 6), "cov", "layer x has 1 position an image, .* choose an earlier layer"),
        ((2, 513, 2, 2), "cov", "513 channels, .* 131,841 numbers an image; .* at most 512"),
        ((6, 5), "avg", "not one row an image"),
        ((2,), "avg", "not one row an image"),
    ],
)
def test_what_has_no_such_pooling_is_refused(shape, pooling, message):
    with pytest.raises(BackboneError, match=message):
        pooled(random(*shape), pooling)
