import numpy as np
import pytest

from featbank.evaluation.transferability import logme


def plain(F, y):
    """LogME as the paper writes it: matrices, their inverse and determinant."""
    n, d = F.shape
    found = []
    for c in np.unique(y):
        t = (y == c).astype(float)
        alpha = beta = 1.0
        for _ in range(3000):
            A = alpha * np.eye(d) + beta * F.T @ F
            m = beta * np.linalg.solve(A, F.T @ t)
            gamma = np.sum(beta * np.linalg.eigvalsh(F.T @ F) / np.linalg.eigvalsh(A))
            alpha, beta = gamma / (m @ m), (n - gamma) / np.sum((F @ m - t) ** 2)
        A = alpha * np.eye(d) + beta * F.T @ F
        m = beta * np.linalg.solve(A, F.T @ t)
        found.append(
            n / 2 * np.log(beta)
            + d / 2 * np.log(alpha)
            - n / 2 * np.log(2 * np.pi)
            - beta / 2 * np.sum((F @ m - t) ** 2)
            - alpha / 2 * m @ m
            - np.linalg.slogdet(A)[1] / 2
        )
    return np.mean(found) / n


def made(n, d, classes, seed=0, signal=0.5):
    random = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return random.normal(size=(n, d)) + signal * np.eye(d)[y] + 1, y


@pytest.mark.parametrize(("n", "d", "classes"), [(60, 5, 2), (90, 12, 3), (20, 30, 2)])
def test_equals_the_fixed_point_of_plain_matrices(n, d, classes):
    F, y = made(n, d, classes)

    assert logme(F, y) == pytest.approx(plain(F, y), rel=1e-6)


def test_dependent_columns_count_as_the_matrices_say():
    F, y = made(60, 5, 2)
    F = np.column_stack([F, F[:, 0] + F[:, 1], np.zeros(60)])

    assert logme(F, y) == pytest.approx(plain(F, y), rel=1e-6)


def test_scale_and_float32_change_nothing():
    F, y = made(60, 5, 2)

    assert logme(100 * F, y) == pytest.approx(logme(F, y), rel=1e-6)
    assert logme(F.astype(np.float32), y) == pytest.approx(logme(F, y), rel=1e-5)


def test_more_signal_is_worth_more_and_pure_noise_least():
    scores = [logme(*made(200, 20, 2, signal=signal)) for signal in (0.0, 0.5, 1.0, 2.0)]

    assert scores == sorted(scores)


def test_classes_that_are_met_exactly_are_finite():
    y = np.arange(40) % 2

    assert np.isfinite(logme(np.column_stack([y == 0, y == 1]).astype(float), y))
    assert np.isfinite(logme(np.random.default_rng(0).normal(size=(20, 60)), y[:20]))
