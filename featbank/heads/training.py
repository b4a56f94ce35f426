"""Training of the MLP head: the only module of `heads` that imports torch and skorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

__all__ = ["Network", "train"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Network:
    """A trained network as plain data: weights (inputs, outputs), intercepts, losses by epoch."""

    coefs: list[Array]
    intercepts: list[Array]
    history: dict[str, list[float]]


class Perceptron(nn.Sequential):
    """Fully connected layers, ReLU and dropout between them."""

    def __init__(self, layers: tuple[int, ...], dropout: float) -> None:
        steps: list[nn.Module] = []
        for inputs, outputs in pairwise(layers):
            if steps:
                steps += [nn.ReLU(), nn.Dropout(dropout)]
            steps.append(nn.Linear(inputs, outputs))
        super().__init__(*steps)


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy of (class, weight) targets, averaged by weight."""

    def forward(self, logits: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss of a batch."""
        codes, weights = target
        losses = functional.cross_entropy(logits, codes, reduction="none")
        # A batch may hold rows of weight 0 only.
        total = weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
        return (losses * weights).sum() / total


class Batches:
    """Batches of rows that lie in memory, taken by index: a DataLoader would collate row by row."""

    def __init__(self, dataset: TensorDataset, batch_size: int, shuffle: bool = False) -> None:
        self.X, self.codes, self.weights = dataset.tensors
        self.batch_size = batch_size
        self.shuffle = shuffle

    def __iter__(self) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
        n = len(self.X)
        order = torch.randperm(n) if self.shuffle else torch.arange(n)
        for rows in order.split(self.batch_size):
            yield self.X[rows], (self.codes[rows], self.weights[rows])


def train(
    data: tuple[Array, Array, Array],
    train_rows: Array,
    held_out: Array,
    *,
    layers: tuple[int, ...],
    dropout: float,
    learning_rate: float,
    weight_decay: float,
    batch_size: int,
    max_epochs: int,
    patience: int,
    seed: int,
) -> Network:
    """Train a network, stop by the held-out rows, and return it as plain data.

    Parameters
    ----------
    data : tuple of ndarray
        X (n, layers[0]) float32, class codes (n,) int64, weights (n,) float32.
    train_rows, held_out : ndarray of int
        Without held-out rows, all epochs are run.
    layers : tuple of int
        Width of the input, of each hidden layer, and of the output.
    """
    tensors = [torch.from_numpy(np.ascontiguousarray(part)) for part in data]

    def dataset(rows: Array) -> TensorDataset:
        index = torch.from_numpy(rows)
        return TensorDataset(*(part[index] for part in tensors))

    stopping = EarlyStopping(
        monitor="valid_loss", patience=patience, threshold=0, load_best=True, sink=lambda _: None
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = NeuralNet(
            Perceptron(layers, dropout),
            WeightedCrossEntropy,
            optimizer=torch.optim.Adam,
            optimizer__weight_decay=weight_decay,
            lr=learning_rate,
            batch_size=batch_size,
            max_epochs=max_epochs,
            iterator_train=Batches,
            iterator_train__shuffle=True,
            iterator_valid=Batches,
            train_split=predefined_split(dataset(held_out)) if len(held_out) else None,
            callbacks=[("stopping", stopping)] if len(held_out) else None,
            verbose=0,
        )
        net.fit(dataset(train_rows), None)
    linear = [module for module in net.module_ if isinstance(module, nn.Linear)]
    losses = ["train_loss", "valid_loss"] if len(held_out) else ["train_loss"]
    return Network(
        coefs=[layer.weight.detach().numpy().T.copy() for layer in linear],
        intercepts=[layer.bias.detach().numpy().copy() for layer in linear],
        history={name: [float(v) for v in net.history[:, name]] for name in losses},
    )
