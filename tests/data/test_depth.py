import tracemalloc

import numpy as np
import pytest

from featbank.data.depth import to_8bit


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "uint32", "float32", "float64"])
def test_order_is_kept_and_the_whole_range_used(dtype):
    samples = np.random.default_rng(0).integers(0, 5000, 1000).astype(dtype)
    got = to_8bit(samples)
    order = np.argsort(samples, kind="stable")
    assert (np.diff(got[order].astype(int)) >= 0).all()
    assert (got.min(), got.max()) == (0, 255)


def test_a_narrow_band_far_from_zero_keeps_its_contrast():
    thermal = np.random.default_rng(0).integers(29_000, 31_000, (64, 64)).astype(np.uint16)
    assert len(np.unique(to_8bit(thermal))) == 256


def test_hot_pixels_do_not_darken_the_rest():
    samples = np.tile(np.arange(1000, dtype=np.uint16), 100)
    expected = to_8bit(samples)
    samples[[5, 70_000]] = 65_535
    np.testing.assert_allclose(to_8bit(samples)[6:70_000].astype(int), expected[6:70_000], atol=1)


def test_a_few_bright_pixels_on_a_constant_ground_are_seen():
    samples = np.full(50_000, 100, dtype=np.uint16)
    samples[3] = 200
    assert to_8bit(samples)[[2, 3]].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("value", "dtype", "grey"),
    [(0, "uint16", 0), (65535, "uint16", 255), (257, "uint16", 1), (0.5, "float32", 128),
     (7.0, "float32", 255), (-3, "int32", 0), (70_000, "int32", 255)],
)  # fmt: skip
def test_a_constant_image_comes_out_as_its_place_in_the_nominal_range(value, dtype, grey):
    assert (to_8bit(np.full((4, 5), value, dtype=dtype)) == grey).all()


def test_the_largest_and_smallest_floats_do_no_harm():
    for dtype in (np.float32, np.float64):
        limits = np.finfo(dtype)
        ends = np.array([limits.min, 0, limits.max], dtype=dtype)
        assert to_8bit(ends).tolist() == [0, 128, 255]
        tiny = np.array([0, limits.smallest_subnormal], dtype=dtype)
        assert to_8bit(tiny)[0] == 0


def test_signalling_nans_pass_quietly():
    samples = np.array([0x7F800001, 0, 0x3F800000], dtype=np.uint32).view(np.float32)
    with np.errstate(all="raise"):
        assert to_8bit(samples).tolist() == [0, 0, 255]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_mapping_takes_little_memory_beyond_the_samples(dtype):
    samples = np.arange(9_000_000).reshape(3000, 3000).astype(dtype)
    tracemalloc.start()
    try:
        to_8bit(samples)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < samples.nbytes + (100 << 20)  # eight times as much, if it were done at once
