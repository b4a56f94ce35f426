"""The runtime: a network that turns batches of pixels into columns of features."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from featbank.backbones import layers, preprocess, resolution
from featbank.backbones.device import pick_device
from featbank.backbones.pooling import layout_of, pool
from featbank.backbones.recipe import Column, Preprocess, Recipe
from featbank.backbones.request import Request
from featbank.backbones.views import run_views
from featbank.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Backbone", "load"]

Features = npt.NDArray[np.floating[Any]]


def load(request: Request, recipe: Recipe | None = None, *, device: str = "cpu") -> Backbone:
    """Build a backbone with its weights, ready to run.

    Parameters
    ----------
    request : Request
    recipe : Recipe, optional
        What `resolve` returned for the request, here or in another process.
    device : str
        As `pick_device` takes it.

    Raises
    ------
    WeightsMismatch
        The weights have other bytes than the recipe says.
    """
    network, classifier, recipe = resolution.build(request, recipe)
    return Backbone(
        network,
        recipe.preprocess,
        recipe=recipe,
        precision=recipe.precision,
        classifier=classifier,
        device=pick_device(device),
        channels_last=True,
    )


class Backbone:
    """A frozen network, its preprocessing, and the layers that it can be asked for.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode; the backbone owns it.
    preprocess : Preprocess
    recipe : Recipe or None
        None where features can't be cached.
    precision : {"float32", "bfloat16", "float16"}
    classifier : str or None
        Path of the final layer, whose input is ``"penultimate"``.
    device : str
    channels_last : bool
        Whether the network stands images whose channels are the fastest index in memory, with
        which convolutions run up to 1.5 times faster.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess | None,
        *,
        recipe: Recipe | None,
        precision: str = "float32",
        classifier: str | None = None,
        device: str = "cpu",
        channels_last: bool = False,
    ) -> None:
        self.network = network
        self._channels_last = channels_last
        self.preprocess = preprocess
        self.recipe = recipe
        self.precision = precision
        self._classifier = classifier
        self._layout = layout_of(network)
        self._proven: set[frozenset[str]] = set()
        self._axes = (1, 2)  # of a batch: height and width
        self.to(device)

    def to(self, device: str) -> Self:
        """Move the network to a device, and return the backbone."""
        import torch

        self.network.to(device)
        if self._channels_last:
            # Module.to() would want it of three-dimensional convolutions too.
            for weight in self.network.parameters():
                if weight.dim() == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self.device = device
        return self

    def prepare(self, image: Image.Image) -> npt.NDArray[Any]:
        """Turn a decoded RGB image into one row of a batch: (H, W, 3), uint8."""
        if self.preprocess is None:
            raise BackboneError("this backbone has no preprocessing of its own.")
        return preprocess.apply(self.preprocess, image)

    def run(
        self, batch: npt.NDArray[Any] | Tensor, columns: Sequence[Column]
    ) -> dict[Column, Features]:
        """Compute features, all columns of a view in one forward pass.

        Parameters
        ----------
        batch : ndarray or Tensor of shape (B, H, W, 3), uint8
            Rows as `prepare` returns them.
        columns : sequence of Column

        Returns
        -------
        dict of Column to ndarray of shape (B, D)
            In the column's dtype. A row depends on its image alone; float32 values in other
            batches differ by rounding (relative error about 1e-6). Values that are not finite
            (NaN weights, overflow in float16) are the caller's to refuse.

        Raises
        ------
        UnknownLayer
            A column's layer is not in the network.
        BackboneError
            A layer can't be pooled as asked.
        """
        import torch

        if not columns:
            raise BackboneError("no column was asked for; name at least one layer.")
        if any(column.view != "identity" for column in columns):
            batch = self._upload(batch)  # once, to be turned there
        with torch.inference_mode(), self._arithmetic():
            pooled = run_views(self._proving, batch, columns, axes=self._axes)
            # One wait for the device, behind all layers.
            values = {column: tensor.cpu().numpy() for column, tensor in pooled.items()}
        return {column: _stored(values[column], column) for column in dict.fromkeys(columns)}

    def compute(
        self, batch: npt.NDArray[Any] | Tensor, columns: Sequence[Column], *, stop: bool = False
    ) -> dict[Column, Tensor]:
        """Compute features of one view as float32 tensors on the device; see `run`.

        The batch is taken as it is, whatever view the columns name. With `stop`, the pass ends
        behind the last layer that is wanted.
        """
        by_layer: dict[str, list[Column]] = defaultdict(list)
        for column in dict.fromkeys(columns):
            by_layer[column.layer].append(column)
        inputs = self._inputs(batch)
        if len(inputs) == 0:
            raise BackboneError("the batch holds no image.")
        pooled = layers.capture(
            self.network,
            inputs,
            {
                layer: self._pooler(layer, chosen, tuple(inputs.shape))
                for layer, chosen in by_layer.items()
            },
            final=self._final(inputs),
            stop=stop,
        )
        return {column: tensor for part in pooled.values() for column, tensor in part.items()}

    def layers(self) -> dict[str, tuple[int, ...]]:
        """Return the layers that `run` can be asked for, with their shapes for one image.

        ``"penultimate"`` comes first, then paths of ``named_modules()`` in their order.
        """
        import torch

        if self.preprocess is None:
            raise BackboneError(
                "the size of the input is not known: this backbone's transform is a function."
            )
        blank = np.zeros((1, *self.preprocess.crop, 3), np.uint8)
        with torch.inference_mode(), self._arithmetic():
            inputs = self._inputs(blank)
            return layers.shapes(self.network, inputs, final=self._final(inputs))

    def _proving(
        self, batch: npt.NDArray[Any] | Tensor, columns: Sequence[Column]
    ) -> dict[Column, Tensor]:
        """Compute features; the first pass goes to the end, to see that each layer runs once."""
        wanted = frozenset(column.layer for column in columns)
        pooled = self.compute(batch, columns, stop=wanted in self._proven)
        self._proven.add(wanted)
        return pooled

    def _final(self, inputs: Tensor) -> str | None:
        return self._classifier

    def _pooler(
        self, layer: str, columns: list[Column], input_shape: tuple[int, ...]
    ) -> Callable[[Tensor], dict[Column, Tensor]]:
        def pool_all(output: Tensor) -> dict[Column, Tensor]:
            return {
                c: pool(
                    output, c.pooling, layer=layer, layout=self._layout, input_shape=input_shape
                ).clone()  # flatten is a view, which the layers behind may overwrite
                for c in columns
            }

        return pool_all

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the recipe's precision: float32 means float32."""
        import torch

        kind = self.device.partition(":")[0]
        if self.precision != "float32":
            return torch.autocast(kind, dtype=getattr(torch, self.precision))
        if kind == "cuda":
            # By default cuDNN rounds the factors of convolutions to TF32's 10 bits.
            return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        return contextlib.nullcontext()

    def _upload(self, batch: npt.NDArray[Any] | Tensor) -> Tensor:
        import torch

        tensor = (
            torch.from_numpy(np.require(batch, requirements=["C", "W"]))
            if isinstance(batch, np.ndarray)
            else batch
        )
        if self.device.startswith("cuda") and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _inputs(self, batch: npt.NDArray[Any] | Tensor) -> Tensor:
        """Scale and normalise pixels: what travels is uint8."""
        import torch

        if self.preprocess is None or batch.ndim != 4 or batch.shape[3] != 3:
            raise BackboneError(
                f"a batch has the shape (B, H, W, 3), not {tuple(batch.shape)}; stack what "
                "prepare() returns."
            )
        pixels = self._upload(batch)
        if pixels.dtype != torch.uint8:
            raise BackboneError(f"a batch holds pixels as uint8, not {pixels.dtype}.")
        mean, std = (
            torch.tensor(v, device=pixels.device).view(-1, 1, 1)
            for v in (self.preprocess.mean, self.preprocess.std)
        )
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        scaled = pixels.permute(0, 3, 1, 2).float().contiguous(memory_format=layout).div_(255)
        return scaled.sub_(mean).div_(std)


def _stored(values: npt.NDArray[np.float32], column: Column) -> Features:
    """Return features in the column's dtype."""
    with np.errstate(over="ignore"):
        return values.astype(column.dtype, copy=False)
