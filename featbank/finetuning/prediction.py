"""Prediction: what a network makes of rows of images, by the recipe's own preprocessing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featbank.backbones.device import pick_device
from featbank.errors import ImageError
from featbank.finetuning.augment import augmentation
from featbank.finetuning.images import Images
from featbank.finetuning.loading import Rows, batches_of, loader, worker_count
from featbank.finetuning.network import TunableNetwork

__all__ = ["evaluate", "float32", "predict_proba", "readable"]

Array = npt.NDArray[Any]
Int = npt.NDArray[np.intp]


def predict_proba(
    network: TunableNetwork,
    images: Images,
    rows: Array,
    *,
    batch_size: int = 64,
    device: str = "auto",
    workers: int | None = None,
) -> npt.NDArray[np.float32]:
    """Return the probability of each class, by the recipe's own preprocessing.

    Parameters
    ----------
    network : TunableNetwork
    images : Images
    rows : ndarray of int
    batch_size : int
    device : str
    workers : int, optional
        As `train` takes it.

    Returns
    -------
    ndarray of shape (len(rows), K), float32

    Raises
    ------
    ImageError
        An image can't be read.
    """
    network.to(pick_device(device))
    rows = np.asarray(rows, np.intp)
    workers = worker_count(workers, network.device, len(rows))
    outputs = [
        torch.softmax(logits, 1)
        for logits in evaluate(network, images, rows, network.module, batch_size, workers)
    ]
    if not outputs:
        return np.zeros((0, network.n_classes), np.float32)
    return torch.cat(outputs).numpy()


def evaluate(
    network: TunableNetwork,
    images: Images,
    rows: Int,
    compute: Callable[[Tensor], Tensor],
    batch_size: int,
    workers: int,
) -> Iterator[Tensor]:
    """Yield what `compute` makes of each batch of rows, as float32 on the CPU."""
    network.eval()
    plain = augmentation("none", network.preprocess, n_classes=network.n_classes)
    data = Rows(images, None, plain.image)
    for batch in loader(data, batches_of(rows, batch_size), workers=workers):
        pixels, _ = readable(batch)
        with torch.inference_mode(), float32(network.device):
            yield compute(network.inputs(pixels)).float().cpu()


def readable(batch: Any) -> tuple[Tensor, Tensor]:
    """Return a batch's pixels and codes, or raise the `ImageError` that came in its place."""
    if isinstance(batch, ImageError):
        raise batch
    pixels, y = batch
    return pixels, y


def float32(device: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which float32 means float32."""
    if device.startswith("cuda"):
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return contextlib.nullcontext()
