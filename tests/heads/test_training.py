from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from featbank.heads.training import Perceptron, batches, train

Array = npt.NDArray[np.float32]


def data(n: int = 96, d: int = 7, k: int = 3) -> tuple[Array, npt.NDArray[np.int64], Array]:
    random = np.random.default_rng(0)
    codes = random.integers(0, k, n)
    X = random.normal(size=(n, d)) + random.normal(size=(k, d))[codes]
    return X.astype(np.float32), codes, random.random(n).astype(np.float32)


def perceptron(device: str = "cpu", dropout: float = 0.0, **changes: float) -> Perceptron:
    settings = {"learning_rate": 0.01, "weight_decay": 0.0, **changes}
    return Perceptron((7, 6, 5, 3), dropout=dropout, seed=3, device=device, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_torchs_adam_on_torchs_cross_entropy(weight_decay: float) -> None:
    net = perceptron(weight_decay=weight_decay)
    layers = [torch.nn.Linear(i, o) for i, o in ((7, 6), (6, 5), (5, 3))]
    for layer, (coef, intercept) in zip(layers, net.layers, strict=True):
        layer.weight.data = torch.from_numpy(coef.T.copy())
        layer.bias.data = torch.from_numpy(intercept.copy())
    steps = [layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]]
    model = torch.nn.Sequential(*steps)
    adam = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=weight_decay)
    X, codes, weights = data()
    told = []
    for _ in range(20):
        losses = torch.nn.functional.cross_entropy(
            model(torch.from_numpy(X)), torch.from_numpy(codes), reduction="none"
        )
        loss = (losses * torch.from_numpy(weights)).sum() / float(weights.sum())
        adam.zero_grad()
        loss.backward()
        adam.step()
        told.append((net.learn([(X, codes, weights)]), loss.item()))

    np.testing.assert_allclose(*zip(*told, strict=True), rtol=1e-4)
    for layer, (coef, intercept) in zip(layers, net.layers, strict=True):
        np.testing.assert_allclose(coef, layer.weight.detach().numpy().T, atol=2e-4)
        np.testing.assert_allclose(intercept, layer.bias.detach().numpy(), atol=2e-4)


def test_the_same_lines_run_on_torch_tensors() -> None:
    here, there = (perceptron(device) for device in ("cpu", "cpu:0"))
    assert isinstance(there.parameters, torch.Tensor)
    rows = np.arange(96)
    found = []
    for net in (here, there):
        X, codes, weights = data()
        given = (net.put(X), codes, weights)
        found.append(
            train(
                net,
                lambda random, given=given: batches(given, rows[:64], 16, random),
                lambda given=given: batches(given, rows[64:]),
                max_epochs=8,
                patience=3,
            )
        )
    for kind in ("train_loss", "valid_loss"):
        np.testing.assert_allclose(found[0].history[kind], found[1].history[kind], rtol=1e-3)
    for one, other in zip(found[0].coefs, found[1].coefs, strict=True):
        assert isinstance(other, np.ndarray)
        np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_dropout_leaves_out_its_share_of_units_and_keeps_their_mean(device: str) -> None:
    whole, thinned = (
        Perceptron((1, 20_000, 2), dropout=p, learning_rate=1.0, weight_decay=0.0, seed=0,
                   device=device)
        for p in (0.0, 0.25)
    )  # fmt: skip
    batch = np.ones((1, 1), np.float32), np.zeros(1, np.int64), np.ones(1, np.float32)
    for net in (whole, thinned):
        net.learn([batch])
    # A unit that is left out learns nothing in this step.
    active = np.asarray(whole.layer_slopes[0][1]) != 0
    kept = np.asarray(thinned.layer_slopes[0][1])[active] != 0
    assert kept.mean() == pytest.approx(0.75, abs=0.02)


def test_a_batch_of_no_weight_moves_nothing_by_its_labels() -> None:
    net = perceptron()
    before = net.parameters.copy()
    X, codes, weights = data()
    assert net.learn([(X, codes, weights * 0)]) == 0
    np.testing.assert_array_equal(net.parameters, before)
