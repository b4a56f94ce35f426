"""Training of the MLP head: NumPy on a CPU, the same lines on torch tensors on a GPU.

Batches of some hundred rows spend their time in two matrix products, in which torch is no faster
on a CPU; and its import takes longer than most fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.heads.streaming import Blocks

__all__ = ["Batch", "Network", "Perceptron", "batches", "train"]

Array = npt.NDArray[Any]
Batch = tuple[Any, Any, Any]
"""X (n, d) float32, class codes (n,) int64, weights (n,) float32."""

_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # Adam's own
_BLOCK = 1 << 14  # parameters that are moved together: what they need stays in the cache
_ROWS = 4096  # at once where nothing is learned
_TINY = float(np.finfo(np.float32).tiny)  # a batch may hold rows of weight 0 only


@dataclass(frozen=True)
class Network:
    """A trained network as plain data: weights (inputs, outputs), intercepts, losses by epoch."""

    coefs: list[Array]
    intercepts: list[Array]
    history: dict[str, list[float]]


class Perceptron:
    """Fully connected layers, ReLU and dropout between them; Adam on their cross-entropy.

    Parameters
    ----------
    layers : tuple of int
        Width of the input, of each hidden layer, and of the output.
    dropout, learning_rate : float
    weight_decay : float
        L2 penalty, half the square of all weights and intercepts times this.
    seed : int
    device : str
        Of torch; ``"cpu"`` is NumPy.

    References
    ----------
    D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        *,
        dropout: float,
        learning_rate: float,
        weight_decay: float,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random = np.random.default_rng(seed)
        self.device = device
        self.xp: Any = np
        if device != "cpu":
            import torch

            self.xp = torch
            self.generator = torch.Generator(device).manual_seed(seed)
        self.steps = 0
        pairs = list(pairwise(layers))
        # Weights and intercepts start uniform within 1 / sqrt(inputs), as torch's layers do.
        bounds = np.repeat([i**-0.5 for i, _ in pairs], [(i + 1) * o for i, o in pairs])
        start = self.random.uniform(-1, 1, len(bounds)) * bounds
        self.parameters = self.put(start.astype(np.float32))
        self.slopes, self.mean, self.square, self.scratch = (
            self.put(np.zeros(len(bounds), np.float32)) for _ in range(4)
        )
        self.layers = _views(self.parameters, pairs)
        self.layer_slopes = _views(self.slopes, pairs)

    def put(self, values: Any) -> Any:
        """Bring an array to the device."""
        if self.device == "cpu" or not isinstance(values, np.ndarray):
            return values
        return self.xp.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def learn(self, given: Iterable[Batch]) -> float:
        """Take a step for each batch; return the mean loss of their rows."""
        lost: Any = 0.0
        rows = 0
        for X, codes, weights in given:
            mean = weights / max(float(weights.sum()), _TINY)
            lost = lost + len(mean) * self._step(self.put(X), self.put(codes), self.put(mean))
            rows += len(mean)
        return float(lost) / max(rows, 1)

    def loss(self, given: Iterable[Batch]) -> float:
        """Return the weighted mean loss over batches, nothing dropped."""
        lost = total = 0.0
        for X, codes, weights in given:
            values = self.put(X)
            for coef, intercept in self.layers[:-1]:
                values = values @ coef
                values += intercept
                values *= values > 0
            _, losses = self._softmax(values, self.put(codes))
            lost += float((losses * self.put(weights)).sum())
            total += float(weights.sum())
        return lost / max(total, _TINY)

    def plain(self, history: dict[str, list[float]]) -> Network:
        """Return what was learned as arrays."""
        values = self.parameters if self.device == "cpu" else self.parameters.cpu().numpy()
        shapes = [coef.shape for coef, _ in self.layers]
        layers = [(coef.copy(), one.copy()) for coef, one in _views(values, shapes)]
        return Network([coef for coef, _ in layers], [one for _, one in layers], history)

    def _step(self, X: Any, codes: Any, weights: Any) -> Any:
        """Learn from a batch whose weights sum to 1; return its loss before."""
        xp = self.xp
        values, alive = [X], []
        for coef, intercept in self.layers[:-1]:
            hidden = values[-1] @ coef
            hidden += intercept
            kept = hidden > 0
            if self.dropout:
                kept &= self._uniform(hidden.shape) >= self.dropout
                hidden *= 1 / (1 - self.dropout)
            hidden *= kept
            values.append(hidden)
            alive.append(kept)
        slope, losses = self._softmax(values[-1], codes)
        slope *= weights[:, None]
        for i in reversed(range(len(self.layers))):
            to_coef, to_intercept = self.layer_slopes[i]
            xp.matmul(values[i].T, slope, out=to_coef)
            xp.sum(slope, axis=0, out=to_intercept)
            if i:
                slope = slope @ self.layers[i][0].T
                slope *= alive[i - 1]
                if self.dropout:
                    slope *= 1 / (1 - self.dropout)
        self._move()
        return (losses * weights).sum()

    def _softmax(self, values: Any, codes: Any) -> tuple[Any, Any]:
        """Return each row's cross-entropy, and its slope by the logits first."""
        xp = self.xp
        coef, intercept = self.layers[-1]
        logits = values @ coef
        logits += intercept
        logits -= xp.amax(logits, axis=1, keepdims=True)
        own = self.put(np.arange(len(logits))), codes
        losses = -logits[own]
        xp.exp(logits, out=logits)
        total = xp.sum(logits, axis=1, keepdims=True)
        losses += xp.log(total[:, 0])
        logits /= total
        logits[own] -= 1
        return logits, losses

    def _uniform(self, shape: tuple[int, ...]) -> Any:
        if self.device == "cpu":
            return self.random.random(shape, np.float32)
        return self.xp.rand(shape, device=self.device, generator=self.generator)

    def _move(self) -> None:
        """Move all parameters by Adam's step; `mean` and `square` are sums, scaled when used."""
        xp = self.xp
        self.steps += 1
        first, second = ((1 - beta) / (1 - beta**self.steps) for beta in _BETAS)
        root = second**0.5
        size = _BLOCK if self.device == "cpu" else len(self.parameters)
        for start in range(0, len(self.parameters), size):
            part = slice(start, start + size)
            p, g, m, v, s = (
                values[part]
                for values in (self.parameters, self.slopes, self.mean, self.square, self.scratch)
            )
            if self.weight_decay:
                xp.multiply(p, self.weight_decay, out=s)
                g += s
            m *= _BETAS[0]
            m += g
            v *= _BETAS[1]
            xp.multiply(g, g, out=s)
            v += s
            xp.sqrt(v, out=s)
            s += _EPSILON / root
            xp.divide(m, s, out=s)
            s *= self.learning_rate * first / root
            p -= s


def batches(
    data: tuple[Any, Array, Array],
    rows: Array,
    size: int = _ROWS,
    random: np.random.Generator | None = None,
) -> Iterator[Batch]:
    """Yield rows of X (an array, a tensor or `Blocks`), codes and weights, taken by index.

    The order is random where a generator is given.
    """
    X, codes, weights = data
    if isinstance(X, Blocks):
        mixed = X[rows].shuffled(size, random or np.random.default_rng(0))
        for at, values in mixed:
            yield values, codes[rows[at]], weights[rows[at]]
        return
    order = rows if random is None else random.permutation(rows)
    for start in range(0, len(order), size):
        taken = order[start : start + size]
        yield X[taken], codes[taken], weights[taken]


def train(
    net: Perceptron,
    epoch: Callable[[np.random.Generator], Iterable[Batch]],
    held_out: Callable[[], Iterable[Batch]] | None,
    *,
    max_epochs: int,
    patience: int,
) -> Network:
    """Train a network, stop by rows that are held out, and return it as plain data.

    Parameters
    ----------
    net : Perceptron
    epoch : callable
        Returns the batches of an epoch, in an order drawn from the generator that it is given.
    held_out : callable or None
        Returns the batches to stop by; with None, all epochs are run.
    max_epochs, patience : int
        Epochs at most, and without improvement.

    Returns
    -------
    Network
        With held-out rows, as it was at their lowest loss.
    """
    history: dict[str, list[float]] = {"train_loss": []}
    if held_out is not None:
        history["valid_loss"] = []
    least, misses = np.inf, 0
    best = None
    for _ in range(max_epochs):
        history["train_loss"].append(net.learn(epoch(net.random)))
        if held_out is None:
            continue
        loss = net.loss(held_out())
        history["valid_loss"].append(loss)
        misses += 1
        if loss < least:
            least, misses, best = loss, 0, net.plain(history)
        if misses == patience:
            break
    return best or net.plain(history)


def _views(flat: Any, pairs: Iterable[tuple[int, int]]) -> list[tuple[Any, Any]]:
    """Return each layer's weights (inputs, outputs) and intercepts as views of one array."""
    found, start = [], 0
    for inputs, outputs in pairs:
        middle, end = start + inputs * outputs, start + (inputs + 1) * outputs
        found.append((flat[start:middle].reshape(inputs, outputs), flat[middle:end]))
        start = end
    return found
