"""The learning-rate range test: which rates a network can learn at, found in one short run.

Smith 2015 (arXiv:1506.01186): the rate rises exponentially from step to step while the network
trains; where the loss falls fastest, it learns best, and where the loss takes off, the rate is too
high.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from featbank.errors import FineTuneError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from featbank.backbones.module import ModuleBackbone
    from featbank.backbones.recipe import Recipe
    from featbank.backbones.request import Request
    from featbank.finetuning.images import Images
    from featbank.finetuning.settings import FineTuneSettings

__all__ = ["RangeTest", "find_rate", "range_test", "unchanged"]

Batch = TypeVar("Batch")
Array = npt.NDArray[Any]

DIVERGED = 4.0
"""The smoothed loss over its least so far, from which on a training has diverged."""
_SKIP = 0.1
"""Share of the steps, at the start, where the smoothed loss is of few batches still."""
_CLEAR = 4.0
"""Standard errors of the difference of two smoothed losses, beyond which it is no noise."""
_AROUND = 0.05
"""Share of the steps on either side of one over which the slope there is taken."""
_FALL = 1e-3
"""What a loss falls by at least, in proportion, before it counts."""


@dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes
    ----------
    rates : tuple of float
        The learning rate of each step; of the group that learns fastest, if there are several.
    losses : tuple of float
        The loss of each step's batch, before the step.
    smoothed : tuple of float
        Their exponential average by size of batch, corrected for its start. It trails behind the
        losses.
    suggestion : float or None
        The rate at which the smoothed loss fell most steeply over the logarithm of the rate, the
        slope taken over a tenth of the steps around each, between where it had fallen clearly and
        its least; None where it never fell clearly: from the level after a tenth of the steps to
        its least by four standard errors, by the noise from batch to batch.
    lowest : float
        The rate at which the smoothed loss was least past the first tenth of the steps. Where it
        fell, that is too high already: a tenth of it is the other common rule.
    diverged_at : float or None
        The rate at which the smoothed loss was above four times its least, or two losses in a row
        were and above the first smoothed one, or the loss no number; None where that never
        happened.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    lowest: float
    diverged_at: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; a loss that is no number is None."""
        return {
            "suggestion": self.suggestion,
            "lowest": self.lowest,
            "tenth_of_lowest": None if self.suggestion is None else self.lowest / 10,
            "diverged_at": self.diverged_at,
            "rates": list(self.rates),
            "losses": [_finite(loss) for loss in self.losses],
            "smoothed": [_finite(loss) for loss in self.smoothed],
        }

    def summary(self) -> str:
        """Return what was found in one sentence.

        Examples
        --------
        >>> RangeTest((1e-4, 1e-3), (2.0, 1.0), (2.0, 1.5), 1e-3, 1e-3, 1e-2).summary()
        'The loss fell fastest at a learning rate of 0.001 (suggested) and was least at 0.001; it \
took off at 0.01.'
        """
        if self.suggestion is None:
            found = "The loss did not fall clearly"
        else:
            found = (
                f"The loss fell fastest at a learning rate of {self.suggestion:.2g} (suggested) "
                f"and was least at {self.lowest:.2g}"
            )
        if self.diverged_at is not None:
            took_off = f"took off at {self.diverged_at:.2g}"
            found += f" and {took_off}" if self.suggestion is None else f"; it {took_off}"
        elif self.suggestion is not None and self.lowest == self.rates[-1]:
            found += ", the highest tested: go on to higher ones"
        if self.suggestion is None:
            found += (
                ", so no learning rate can be suggested; more --steps or a larger --batch-size "
                "would tell"
            )
        return found + "."


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def range_test(
    network: nn.Module,
    loss: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    optimizer: Optimizer,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    smoothing: float = 0.9,
    size: Callable[[Batch], int] | None = None,
) -> RangeTest:
    """Train with rising learning rates until the loss takes off, then undo it all.

    Network (parameters, buffers, gradients, modes), optimizer and random generators are afterwards
    as they were, to the byte, however it ends.

    Parameters
    ----------
    network : torch.nn.Module
        In the mode that it is to be trained in.
    loss : callable
        From a batch to the loss of `network` on it, a tensor that gradients can be taken of.
    batches : iterable
        Begun again when it is used up.
    optimizer : torch.optim.Optimizer
        Over the network's parameters. The group of the highest learning rate takes the rates of
        the test, the others keep their proportion to it.
    low, high : float
        First and last rate.
    steps : int
        At most so many batches.
    smoothing : float
        In [0, 1): the weight of the past in the average of the losses.
    size : callable, optional
        From a batch to how many images it is of, where batches differ in that.

    Returns
    -------
    RangeTest

    Raises
    ------
    FineTuneError
        The range is none, there is no batch, or the first loss is no number already.

    Examples
    --------
    >>> import torch
    >>> weight = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(weight.parameters(), lr=0.1)
    >>> found = range_test(
    ...     weight,
    ...     lambda x: (weight(x) - 3).square().mean(),
    ...     [torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [1.0]])],
    ...     optimizer,
    ...     low=1e-4,
    ...     high=100.0,
    ... )
    >>> 1e-3 < found.suggestion < found.lowest < found.diverged_at < 10
    True
    """
    import torch

    if not (0 < low < high < math.inf) or steps < 2:
        raise FineTuneError(
            f"a range test goes from a rate above 0 up to a higher one in 2 steps or more, not "
            f"from {low} to {high} in {steps}."
        )
    if not 0 <= smoothing < 1:
        raise FineTuneError(f"smoothing is a number from 0 to below 1, not {smoothing}.")
    ramp = np.geomspace(low, high, steps)
    losses: list[float] = []
    smoothed: list[float] = []
    sizes: list[int] = []
    total = weight = 0.0
    with unchanged(network, optimizer):
        base = [float(group["lr"]) for group in optimizer.param_groups]
        for rate, batch in zip(ramp, _again(batches), strict=False):
            for group, own in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = float(rate) * own / max(base)
            optimizer.zero_grad()
            with torch.enable_grad():
                value = loss(batch)
            losses.append(float(value.detach()))
            sizes.append(1 if size is None else size(batch))
            total = smoothing * total + sizes[-1] * losses[-1]
            weight = smoothing * weight + sizes[-1]
            smoothed.append(total / weight)
            if _diverged(losses, smoothed):
                break
            value.backward()
            optimizer.step()
    if not losses:
        raise FineTuneError("there is no batch to test learning rates on.")
    if not math.isfinite(losses[0]):
        raise FineTuneError(
            f"the loss of the first batch is {losses[0]} before any step; look at the images and "
            "the initial weights."
        )
    return _found(ramp, losses, smoothed, np.array(sizes, float), smoothing)


def _again(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches, over and over; nothing if there is none."""
    empty = False
    while not empty:
        empty = True
        for batch in batches:
            empty = False
            yield batch


def _diverged(losses: Sequence[float], smoothed: Sequence[float]) -> bool:
    """Tell whether the last loss is no number, or brought the curve or a second loss too high."""
    if not math.isfinite(losses[-1]):
        return True
    high = DIVERGED * min(smoothed)
    return smoothed[-1] > high or (len(losses) > 1 and min(losses[-2:]) > max(high, smoothed[0]))


def _spread(losses: Sequence[float], sizes: Array) -> float:
    """Return the variance of an image's loss; that of a batch of n is taken for 1 / n of it.

    Told by what differs from one batch to the next, which a slow fall hardly adds to (von Neumann
    1941, doi:10.1214/aoms/1177731677).
    """
    return float(np.mean(np.diff(losses) ** 2 / (1 / sizes[1:] + 1 / sizes[:-1])))


def _shares(sizes: Array, smoothing: float) -> Array:
    """Return the variance of each smoothed loss over that of an image's."""
    shares = np.empty(len(sizes))
    weight = square = 0.0
    for k, n in enumerate(sizes):
        weight = smoothing * weight + n
        square = smoothing**2 * square + n
        shares[k] = square / weight**2
    return shares


def _found(
    rates: Array, losses: list[float], smoothed: list[float], sizes: Array, smoothing: float
) -> RangeTest:
    curve = np.array(smoothed)
    steps = len(rates)
    rates = rates[: len(curve)]
    skip = math.ceil(_SKIP * steps)
    if skip >= np.isfinite(curve).sum():
        skip = 0
    least = skip + int(np.nanargmin(curve[skip:]))
    suggestion = None
    if least > skip:
        shares = _shares(sizes, smoothing)
        noise = _spread(losses[: least + 1], sizes[: least + 1]) * (shares[skip] + shares[least])
        clear = curve[skip] - max(_CLEAR * math.sqrt(noise), _FALL * curve[skip])
        if curve[least] < clear:
            # The ramp is exponential: equal steps in the rate's logarithm.
            around = max(1, round(_AROUND * steps))
            fallen = skip + int(np.flatnonzero(curve[skip:least] >= clear)[-1])
            k = np.arange(fallen, least + 1)
            left, right = np.maximum(k - around, 0), np.minimum(k + around, len(curve) - 1)
            with np.errstate(invalid="ignore"):
                slope = (curve[right] - curve[left]) / (right - left)
            suggestion = float(rates[fallen + int(np.nanargmin(slope))])
    return RangeTest(
        rates=tuple(map(float, rates)),
        losses=tuple(losses),
        smoothed=tuple(smoothed),
        suggestion=suggestion,
        lowest=float(rates[least]),
        diverged_at=float(rates[-1]) if _diverged(losses, smoothed) else None,
    )


@contextlib.contextmanager
def unchanged(network: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Bring network, optimizer and random generators back to what they were, however it ends."""
    import torch

    parameters = [
        (p, p.detach().clone(), None if p.grad is None else p.grad.detach().clone())
        for p in network.parameters()
    ]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    modes = [(module, module.training) for module in network.modules()]
    gpus = sorted({p.device.index for p in network.parameters() if p.device.type == "cuda"})
    state = copy.deepcopy(optimizer.state_dict())
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        with torch.no_grad():
            for parameter, value, gradient in parameters:
                parameter.copy_(value)
                parameter.grad = gradient
            for module, name, buffer, value in buffers:
                setattr(module, name, buffer.copy_(value))
        for module, training in modes:
            module.training = training
        optimizer.load_state_dict(state)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def find_rate(
    request: Request | ModuleBackbone,
    images: Images,
    y: Array,
    train: Array,
    *,
    n_classes: int,
    settings: FineTuneSettings,
    class_names: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    units: Array | None = None,
    device: str = "auto",
    workers: int | None = None,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
) -> RangeTest:
    """Run a range test of the training that `featbank.finetuning.trainer.train` would begin.

    Parameters
    ----------
    request, images, y, train, n_classes, settings, class_names, recipe, device, workers
        As `train` takes them. All that `settings.unfreeze` names trains from the first step on;
        the rates are those of the head.
    low, high, steps
        As in `range_test`.

    Returns
    -------
    RangeTest
        It follows from the settings' seed.

    Raises
    ------
    FineTuneError, ImageError, BackboneError
    """
    import torch

    from featbank.backbones.device import pick_device
    from featbank.finetuning.augment import augmentation
    from featbank.finetuning.loading import Epochs, Rows, loader, seed_of, worker_count
    from featbank.finetuning.network import tunable
    from featbank.finetuning.optimizers import make_optimizer, parameter_groups
    from featbank.finetuning.prediction import readable
    from featbank.finetuning.probe import probe
    from featbank.finetuning.trainer import class_weights

    train = np.asarray(train, np.intp)
    if len(train) == 0:
        raise FineTuneError("there are no images to train on.")
    device = pick_device(device)
    network = tunable(request, n_classes, settings, recipe).to(device)
    workers = worker_count(workers, device, len(train))
    weights = class_weights(settings, y[train], n_classes, class_names)
    augment = augmentation(settings.augment, network.preprocess, n_classes=n_classes)
    if settings.init == "probe":
        probe(
            network,
            images,
            y,
            train,
            units=np.arange(len(y)) if units is None else units,
            class_weights=weights,
            settings=settings,
            workers=workers,
        )
    stages = network.freeze(settings.unfreeze)
    groups = parameter_groups(network.head, [stage.parameters for stage in stages], settings)
    network.train()
    order = Epochs(train, settings.batch_size, settings.random_state)
    seed = seed_of(settings.random_state, 0)
    mixing = torch.Generator().manual_seed(seed)
    criterion = torch.nn.CrossEntropyLoss(
        weight=None if weights is None else torch.from_numpy(weights).to(device),
        label_smoothing=settings.label_smoothing,
    )

    def batches() -> Iterator[Any]:
        while True:
            yield from loader(Rows(images, y, augment.image), order, workers=workers)
            order.epoch += 1

    def loss(batch: Any) -> Tensor:
        pixels, codes = readable(batch)
        inputs, targets = augment.batch(network.inputs(pixels), codes.to(device), mixing)
        value: Tensor = criterion(network.module(inputs), targets)
        return value

    with torch.random.fork_rng([device] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        return range_test(
            network.module,
            loss,
            batches(),
            make_optimizer(groups, settings),
            low=low,
            high=high,
            steps=steps,
            size=lambda batch: len(readable(batch)[1]),
        )
