"""Models: the backbones there are, and what one of them offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featbank.backbones.registry import BackboneInfo, describe, list_backbones
from featbank.backbones.request import Request
from featbank.errors import UnknownBackbone

__all__ = ["LayerInfo", "list_layers", "models"]

FEW = 12
"""Up to so many backbones are built, without memory for their weights, to learn their widths."""


@dataclass(frozen=True)
class LayerInfo:
    """A layer that features can be taken from, with its output's shape for one image."""

    name: str
    shape: tuple[int, ...]


def models(pattern: str | None = None, *, source: str | None = None) -> list[BackboneInfo]:
    """List backbones.

    Parameters
    ----------
    pattern : str, optional
        A name, which is then listed alone; or part of one, or with ``*`` and ``?``.
    source : {"package", "torchvision", "small", "timm"}, optional

    Raises
    ------
    UnknownBackbone
        Nothing fits; the message suggests the nearest names.
    """
    names = list_backbones(pattern, source=source)
    if pattern in names:
        names = [pattern]
    if not names:
        if pattern is not None:
            describe(pattern, build=False)  # raises, with the nearest names
        raise UnknownBackbone(f"no backbone fits {pattern!r} in {source}.")
    return [describe(name, build=len(names) <= FEW) for name in names]


def list_layers(model: str) -> Sequence[LayerInfo]:
    """List the layers of a backbone; its weights are not needed."""
    from featbank.backbones.resolution import resolve
    from featbank.backbones.runtime import load

    request = Request(model, weights="none")
    backbone = load(request, resolve(request))
    return [LayerInfo(name, shape) for name, shape in backbone.layers().items()]
