"""The probe: a new head that starts as the logistic regression on the frozen network's features.

A linear probe first, then fine-tuning, keeps pretrained features from being distorted by the first
steps of a random head (Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featbank.errors import FineTuneError
from featbank.evaluation.fitting import choose
from featbank.evaluation.folds import deal, units_per_class
from featbank.finetuning.images import Images
from featbank.finetuning.network import TunableNetwork
from featbank.finetuning.prediction import evaluate
from featbank.finetuning.settings import FineTuneSettings
from featbank.heads.fits import fit_head
from featbank.heads.registry import grid, make_head

__all__ = ["fold_scaling", "probe", "start_from_probe"]

Array = npt.NDArray[Any]

_FOLDS = 5


def probe(
    network: TunableNetwork,
    images: Images,
    y: Array,
    train: Array,
    *,
    units: Array,
    class_weights: Array | None,
    settings: FineTuneSettings,
    workers: int,
) -> None:
    """Put a linear probe of the rows `train` into the head; see `start_from_probe`.

    Parameters
    ----------
    network : TunableNetwork
    images : Images
    y, units : ndarray of shape (n,)
    train : ndarray of int
    class_weights : ndarray of shape (K,), or None
    settings : FineTuneSettings
    workers : int
    """
    size = max(settings.batch_size, 32)
    features = evaluate(network, images, train, network.features, size, workers)
    start_from_probe(
        network,
        torch.cat(list(features)).numpy(),
        y[train],
        units=np.unique(units[train], return_inverse=True)[1],
        class_weight=None if class_weights is None else dict(enumerate(class_weights.tolist())),
        seed=settings.random_state,
    )


def start_from_probe(
    network: TunableNetwork,
    X: Array,
    y: Array,
    *,
    units: Array,
    class_weight: dict[int, float] | None,
    seed: int,
) -> float:
    """Fit featbank's logreg on features of the training rows, and copy it into the head.

    Its C is chosen by cross-validation among these rows alone.

    Parameters
    ----------
    network : TunableNetwork
        With a head of one linear layer.
    X : ndarray of shape (n, d), float32
        As `TunableNetwork.features` gives them.
    y : ndarray of shape (n,)
        Codes.
    units : ndarray of shape (n,)
        Rows of one unit are never parted.
    class_weight : dict of code to float, or None
    seed : int

    Returns
    -------
    float
        The C that was chosen.

    Raises
    ------
    FineTuneError
        The features are not finite.
    """
    if not np.isfinite(X).all():
        raise FineTuneError("the frozen network's features are not finite; check its weights.")
    head = make_head("logreg", random_state=seed)
    weights = class_weight and {c: w for c, w in class_weight.items() if c in set(y.tolist())}
    head.set_params(logisticregression__class_weight=weights)
    codes = np.unique(y, return_inverse=True)[1]
    k = min(_FOLDS, int(units_per_class(codes, units).min()))
    if k >= 2:
        fold = deal(codes, units, k, np.random.default_rng(seed))
        inner = tuple((np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(k))
        head.set_params(**choose(head, grid("logreg"), X, y, inner))
    fit_head(head, X, y)
    weight, bias = fold_scaling(head, network.n_classes)
    with torch.no_grad():
        layer = network.head
        layer.weight.copy_(torch.from_numpy(weight).view_as(layer.weight))  # type: ignore[operator, arg-type]
        layer.bias.copy_(torch.from_numpy(bias))  # type: ignore[operator]
    return float(head.get_params()["logisticregression__C"])


def fold_scaling(head: Any, n_classes: int) -> tuple[Array, Array]:
    """Return weight (K, D) and bias (K,) that give a fitted logreg's logits from raw features.

    A class that it has not seen gets no weight, and a bias that makes it the least likely.
    """
    scaler, last = head[0], head[-1]
    coef, intercept = last.coef_.astype(np.float64), last.intercept_.astype(np.float64)
    if len(coef) == 1:  # of two classes scikit-learn keeps the difference
        coef, intercept = np.vstack([-coef, coef]) / 2, np.array([-1, 1]) * intercept / 2
    coef = coef / scaler.scale_
    intercept = intercept - coef @ scaler.mean_
    weight = np.zeros((n_classes, coef.shape[1]))
    bias = np.full(n_classes, intercept.min() - 10.0)
    weight[last.classes_], bias[last.classes_] = coef, intercept
    return weight.astype(np.float32), bias.astype(np.float32)
