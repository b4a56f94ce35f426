"""Which network turns an image into features: names, weights, preprocessing, layers.

Importing this package imports no torch: decoding workers, and runs with nothing to do, need none.
Its names are imported when they are first used: a worker starts the sooner.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featbank.backbones.device import pick_device
    from featbank.backbones.memo import cache_dir
    from featbank.backbones.module import ModuleBackbone, from_module
    from featbank.backbones.preprocess import apply
    from featbank.backbones.recipe import Column, Preprocess, Recipe
    from featbank.backbones.registry import BackboneInfo, describe, list_backbones
    from featbank.backbones.request import Request
    from featbank.backbones.resolution import resolve
    from featbank.backbones.runtime import Backbone, load

_HOMES = {
    "Backbone": "runtime",
    "BackboneInfo": "registry",
    "Column": "recipe",
    "ModuleBackbone": "module",
    "Preprocess": "recipe",
    "Recipe": "recipe",
    "Request": "request",
    "apply": "preprocess",
    "cache_dir": "memo",
    "describe": "registry",
    "from_module": "module",
    "list_backbones": "registry",
    "load": "runtime",
    "pick_device": "device",
    "resolve": "resolution",
}

__all__ = [
    "Backbone",
    "BackboneInfo",
    "Column",
    "ModuleBackbone",
    "Preprocess",
    "Recipe",
    "Request",
    "apply",
    "cache_dir",
    "describe",
    "from_module",
    "list_backbones",
    "load",
    "pick_device",
    "resolve",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'featbank.backbones' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"featbank.backbones.{home}"), name)
    globals()[name] = value
    return value
