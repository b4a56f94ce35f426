"""Which network turns an image into features: names, weights, preprocessing, layers.

Importing this package imports no torch: decoding workers, and runs with nothing to do, need none.
"""

from featbank.backbones.device import pick_device
from featbank.backbones.memo import cache_dir
from featbank.backbones.module import ModuleBackbone, from_module
from featbank.backbones.preprocess import apply
from featbank.backbones.recipe import Column, Preprocess, Recipe
from featbank.backbones.registry import BackboneInfo, describe, list_backbones
from featbank.backbones.request import Request
from featbank.backbones.resolution import resolve
from featbank.backbones.runtime import Backbone, load

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
