"""A backbone of the caller's own: any ``torch.nn.Module`` with a transform."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from featbank.backbones import layers
from featbank.backbones.device import pick_device
from featbank.backbones.preprocess import FROM_TRANSFORM
from featbank.backbones.recipe import Preprocess, Recipe, canonical_json
from featbank.backbones.request import PRECISIONS
from featbank.backbones.runtime import Backbone
from featbank.backbones.torchvision import from_preset
from featbank.backbones.weights import digest_state
from featbank.data.decode import DecodePolicy
from featbank.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["ModuleBackbone", "from_module"]

logger = logging.getLogger(__name__)

Transform = Callable[[Image.Image], Any]


class ModuleBackbone(Backbone):
    """A backbone around a module of the caller's; `from_module` makes one.

    It pickles where the module and the transform do.
    """

    decode = DecodePolicy()
    _transform: Transform | None = None
    _searched = False

    def __sklearn_clone__(self) -> ModuleBackbone:
        """Stay the same object in clones of an estimator: nothing of it is ever fitted."""
        return self

    def prepare(self, image: Image.Image) -> npt.NDArray[Any]:
        """Turn a decoded RGB image into one row of a batch.

        Returns
        -------
        ndarray
            (H, W, 3) uint8; or, of a transform that is a function, (C, H, W) float32.
        """
        if self._transform is None:
            return super().prepare(image)
        row = np.asarray(self._transform(image), dtype=np.float32)
        if row.ndim != 3:
            raise BackboneError(
                f"the transform returned shape {row.shape}, expected (channels, height, width)."
            )
        return row

    def _inputs(self, batch: npt.NDArray[Any] | Tensor) -> Tensor:
        import torch

        if self._transform is None:
            inputs = super()._inputs(batch)
        else:
            inputs = self._upload(batch)
            if inputs.ndim != 4 or not inputs.is_floating_point():
                raise BackboneError(
                    f"a batch has the shape (B, C, H, W) and floats, not {tuple(inputs.shape)} "
                    f"and {inputs.dtype}; stack what prepare() returns."
                )
        dtypes = (p.dtype for p in self.network.parameters() if p.is_floating_point())
        return inputs.to(next(dtypes, torch.float32))

    def _final(self, inputs: Tensor) -> str | None:
        if self._classifier is None and not self._searched:
            self._classifier = layers.final_layer(self.network, inputs[:1])
            self._searched = True
        return self._classifier


def from_module(
    module: nn.Module,
    *,
    transform: Any,
    version: str | None = None,
    name: str | None = None,
    classifier: str | None = None,
    precision: str = "float32",
    decode: DecodePolicy | None = None,
    device: str = "cpu",
) -> ModuleBackbone:
    """Make a backbone of a module of your own.

    Parameters
    ----------
    module : torch.nn.Module
        Copied as it is now; yours stays as it is.
    transform : Preprocess, torchvision preset, or callable
        From an RGB image to the module's input: data of ours, the preset of a torchvision weights
        enum (``weights.transforms()``), or a function from a PIL image to a tensor (C, H, W).
    version : str, optional
        Features are cached only under a version: equal weights can run through another
        ``forward``. It vouches for ``forward``, and for `transform` where that is a function;
        change it when one of them changes.
    name : str, optional
        By default the name of the module's class.
    classifier : str, optional
        Path of the final layer, whose input is the penultimate layer. By default the linear layer
        whose output is the module's; where there is none, the module's own output is taken.
    precision : {"float32", "bfloat16", "float16"}
    decode : DecodePolicy, optional
    device : str

    Returns
    -------
    ModuleBackbone
        Its `recipe` is None without a version.

    Examples
    --------
    >>> import torch
    >>> from featbank.backbones import Column, Preprocess, from_module
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> small = Preprocess(32, "short", (32, 32), "bilinear", (0.5,) * 3, (0.5,) * 3)
    >>> backbone = from_module(net, transform=small, version="1", name="two-layers")
    >>> batch = np.zeros((2, 32, 32, 3), np.uint8)
    >>> backbone.run(batch, [Column("penultimate", "avg")])[Column()].shape
    (2, 4)
    """
    from torch import nn

    if not isinstance(module, nn.Module):
        raise BackboneError(
            f"a backbone is made of a torch.nn.Module, not {type(module).__name__}."
        )
    if precision not in PRECISIONS:
        raise BackboneError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}.")
    if version is not None and not version.strip():
        raise BackboneError("version is empty; give a text that changes with the module's code.")
    if classifier is not None and classifier not in dict(module.named_modules()):
        raise BackboneError(f"{type(module).__name__} has no layer {classifier!r} (classifier=).")
    name = name or type(module).__name__
    own, function = _as_data(transform)
    decoder = json.loads(canonical_json((decode or DecodePolicy()).to_dict()))
    if own is not None:
        own = dataclasses.replace(own, decoder=decoder)
    network = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    recipe = None
    if version is None:
        logger.warning(
            "%s has no version, so its features are not kept; give version='1' to keep them.", name
        )
    else:
        recipe = Recipe(
            backbone="#".join(filter(None, (f"{_quoted(name)}@{_quoted(version)}", classifier))),
            source="module",
            weights=digest_state(network),
            preprocess=own or _vouched_for(decoder),
            precision=precision,
            runtime=None if precision == "float32" else "torch",
        )
    backbone = ModuleBackbone(
        network,
        own,
        recipe=recipe,
        precision=precision,
        classifier=classifier,
        device=pick_device(device),
    )
    backbone._transform = function
    if function is not None:
        backbone._axes = (2, 3)
    backbone.decode = decode or DecodePolicy()
    return backbone


def _as_data(transform: Any) -> tuple[Preprocess | None, Transform | None]:
    if isinstance(transform, Preprocess):
        return transform, None
    if all(hasattr(transform, a) for a in ("crop_size", "resize_size", "interpolation", "mean")):
        return from_preset(transform), None
    if callable(transform):
        return None, transform
    raise BackboneError(
        "transform= is a featbank Preprocess, a torchvision preset (weights.transforms()) or a "
        f"function from a PIL image to a tensor, not {type(transform).__name__}."
    )


def _quoted(word: str) -> str:
    """Return a name or a version without the signs that part them in a recipe."""
    return word.replace("%", "%25").replace("@", "%40").replace("#", "%23")


def _vouched_for(decoder: dict[str, Any]) -> Preprocess:
    """Return what stands in a recipe for a function; the version says which one it is."""
    return Preprocess(None, FROM_TRANSFORM, (0, 0), "", (), (), decoder=decoder)
