"""Pooling: from what a layer puts out to one vector an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featbank.backbones.covariance import WIDEST, triangle, width_of
from featbank.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Layout", "layout_of", "pool"]

GEM_POWER = 3.0
GEM_FLOOR = 1e-6


@dataclass(frozen=True)
class Layout:
    """How a network arranges what its layers put out.

    Attributes
    ----------
    channels_last : bool
        Whether maps are (B, H, W, C) where their shape does not tell.
    patches : int or None
        Tokens that stand for patches of the image; None if not known.
    prefix : int or None
        Tokens before them (class token, registers), where `patches` is known.
    """

    channels_last: bool = False
    patches: int | None = None
    prefix: int = 0

    def whole(self, tokens: Tensor) -> bool:
        """Whether (B, T, D) holds the known patches and what stands before them."""
        return self.patches is not None and tokens.shape[1] == self.patches + self.prefix


def layout_of(network: nn.Module) -> Layout:
    """Return what torchvision's and timm's networks say of themselves."""
    channels_last = (
        getattr(network, "output_fmt", None) == "NHWC"
        or type(network).__module__ == "torchvision.models.swin_transformer"
    )
    length = getattr(network, "seq_length", None)
    if isinstance(length, int) and hasattr(network, "class_token"):
        return Layout(channels_last, length - 1, 1)  # torchvision's VisionTransformer
    prefix = getattr(network, "num_prefix_tokens", None)
    patches = getattr(getattr(network, "patch_embed", None), "num_patches", None)
    if isinstance(prefix, int) and isinstance(patches, int):
        return Layout(channels_last, patches, prefix)
    return Layout(channels_last)


def pool(
    output: Tensor, pooling: str, *, layer: str, layout: Layout, input_shape: tuple[int, ...]
) -> Tensor:
    """Pool the output of a layer over its positions.

    Parameters
    ----------
    output : Tensor of shape (B, D), (B, T, D), (B, C, H, W) or (B, H, W, C)
    pooling : {"avg", "max", "avgmax", "gem", "cov", "cls", "flatten", "none"}
        "avg", "max", "gem" and "cov" go over the positions of a map, or over the patch tokens of a
        sequence (class token and registers left out where the network has them). "avgmax" joins
        the first two. "gem" is the generalised mean, (mean x^p)^(1/p) with p = 3 and x raised to
        at least 1e-6: Radenovic, Tolias and Chum, "Fine-tuning CNN image retrieval with no human
        annotation", 2018, equation 3. "cov" is the covariance of the channels, divided by the
        number of positions, as a triangle of `featbank.backbones.covariance`. "cls" takes the first
        token. "flatten" keeps all values, in the layer's own order. "none" takes a vector as it is.
        A vector has no positions: every pooling but "cls" and "cov" leaves it as it is.
    layer : str
        For messages.
    layout : Layout
    input_shape : tuple of int
        (B, 3, H, W) of the network's input.

    Returns
    -------
    Tensor of shape (B, D), float32

    Raises
    ------
    BackboneError
        The output has no such pooling.
    """
    if output.ndim < 2 or output.shape[0] != input_shape[0]:
        raise BackboneError(
            f"layer {layer} puts out shape {list(output.shape)} for {input_shape[0]} images, not "
            "one row an image; choose a layer before or behind it."
        )
    output = output.float()
    if pooling == "flatten" or (output.ndim == 2 and pooling not in ("cls", "cov")):
        return output.flatten(1)
    if pooling == "cls":
        return _class_token(output, layer, layout)
    if pooling == "none":
        raise BackboneError(
            f"layer {layer} puts out shape {list(output.shape[1:])} an image, and pooling none "
            f"takes vectors only; say {layer}:flatten, or pool it with avg."
        )
    if pooling == "cov" and output.ndim == 2:
        raise BackboneError(_no_covariance(layer, 1))
    positions = _positions(output, layer, layout, input_shape)
    if pooling == "cov":
        return _covariance(positions, layer)
    if pooling == "avg":
        return positions.mean(1)
    if pooling == "max":
        return positions.amax(1)
    if pooling == "gem":
        return positions.clamp(min=GEM_FLOOR).pow(GEM_POWER).mean(1).pow(1 / GEM_POWER)
    import torch

    return torch.cat([positions.mean(1), positions.amax(1)], dim=1)


def _covariance(positions: Tensor, layer: str) -> Tensor:
    """Return the covariances of (B, positions, channels) as triangles, (B, D)."""
    import torch

    n, channels = (int(size) for size in positions.shape[1:])
    if n < 2:
        raise BackboneError(_no_covariance(layer, n))
    if channels > WIDEST:
        raise BackboneError(
            f"layer {layer} has {channels} channels, whose covariance would be "
            f"{width_of(channels):,} numbers an image; choose an earlier layer, of at most "
            f"{WIDEST} channels (`featbank models NAME --layers` lists them)."
        )
    at, weights = (torch.from_numpy(part).to(positions.device) for part in triangle(channels))
    with torch.autocast(positions.device.type, enabled=False):
        centred = positions - positions.mean(1, keepdim=True)
        covariance = torch.matmul(centred.transpose(1, 2), centred / n)
        return covariance.flatten(1).index_select(1, at) * weights


def _no_covariance(layer: str, positions: int) -> str:
    return (
        f"layer {layer} has {positions} position{'s' * (positions != 1)} an image, and a "
        "covariance goes over several; choose an earlier layer, or pool it with avg."
    )


def _class_token(output: Tensor, layer: str, layout: Layout) -> Tensor:
    has = output.ndim == 3 and output.shape[1] > 0
    if layout.patches is not None:
        has = has and layout.prefix > 0 and layout.whole(output)
    if not has:
        raise BackboneError(
            f"layer {layer} puts out shape {list(output.shape[1:])} an image, without a class "
            "token; pool it with avg."
        )
    return output[:, 0]


def _positions(output: Tensor, layer: str, layout: Layout, input_shape: tuple[int, ...]) -> Tensor:
    """Return (B, positions, channels)."""
    if output.ndim == 3:
        return output[:, layout.prefix :] if layout.whole(output) else output
    if output.ndim != 4:
        raise BackboneError(
            f"layer {layer} puts out shape {list(output.shape[1:])} an image, which is neither a "
            f"map nor a sequence; say {layer}:flatten."
        )
    # A map has the proportions of the input: that tells where its channels are.
    last = _distortion(output.shape[1:3], input_shape[2:])
    first = _distortion(output.shape[2:4], input_shape[2:])
    if last == first == math.inf:
        raise BackboneError(
            f"layer {layer} puts out shape {list(output.shape[1:])} an image, which is no map of "
            f"the image; say {layer}:flatten, or choose a layer before or behind it."
        )
    if last < first or (last == first and layout.channels_last):
        return output.flatten(1, 2)
    return output.flatten(2).transpose(1, 2)


def _distortion(size: tuple[int, ...], image: tuple[int, ...]) -> float:
    """Return how far `size` is from the proportions of `image`; infinite where it is no map."""
    (h, w), (height, width) = size, image
    if height == width:
        return 0.0 if h == w else math.inf
    difference = abs(h * width - w * height)
    # Each side was rounded by at most one cell.
    return difference / (h * w) if difference <= height + width else math.inf
