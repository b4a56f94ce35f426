from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power

from featbank.backbones.covariance import FLOOR, POWER, channels_of, power_of, triangle, width_of


def covariances(n: int, channels: int, positions: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.uniform(-2, 1, channels)  # eigenvalues of several orders of magnitude
    maps = scale[:, np.newaxis] * rng.normal(size=(n, channels, positions))
    return np.stack([np.cov(one, bias=True) for one in maps])


def triangles(matrices: np.ndarray) -> np.ndarray:
    at, weights = triangle(matrices.shape[1])
    return matrices.reshape(len(matrices), -1)[:, at] * weights


@pytest.mark.parametrize("positions", [100, 5])  # more than channels, and fewer
def test_the_power_is_that_of_the_matrix(positions: int) -> None:
    matrices = covariances(3, 9, positions)
    floor = FLOOR * np.trace(matrices, axis1=1, axis2=2)[:, np.newaxis, np.newaxis] / 9 * np.eye(9)
    expected = np.stack([fractional_matrix_power(one, POWER) for one in matrices + floor])

    found = power_of(triangles(matrices))

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, triangles(expected), rtol=1e-4, atol=1e-5)


def test_products_of_triangles_are_those_of_the_matrices() -> None:
    a, b = covariances(2, 6, 20)
    assert triangles(np.stack([a]))[0] @ triangles(np.stack([b]))[0] == pytest.approx((a * b).sum())


def test_a_row_depends_on_itself_alone() -> None:
    rows = triangles(covariances(300, 4, 10)).astype(np.float32)
    alone = np.concatenate([power_of(rows[i : i + 1]) for i in range(300)])

    np.testing.assert_array_equal(power_of(rows), alone)
    rows[7, 2] = np.nan
    found = power_of(rows)
    assert np.isnan(found[7]).all()
    np.testing.assert_array_equal(np.delete(found, 7, 0), np.delete(alone, 7, 0))


def test_half_the_bits_cost_little_and_plain_images_nothing() -> None:
    rows = triangles(covariances(20, 12, 40)).astype(np.float32)
    exact, rounded = power_of(rows), power_of(rows.astype(np.float16))

    error = np.linalg.norm(exact - rounded, axis=1) / np.linalg.norm(exact, axis=1)
    assert error.max() < 2e-3
    np.testing.assert_array_equal(power_of(np.zeros((2, 10), np.float32)), np.zeros((2, 10)))


def test_widths_are_those_of_triangles() -> None:
    assert [channels_of(width_of(n)) for n in (1, 2, 120, 512)] == [1, 2, 120, 512]
    for width in (0, 2, 5, 7261):
        with pytest.raises(ValueError, match="no triangle"):
            channels_of(width)
