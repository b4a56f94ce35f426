"""Loaders: a backbone's description, ready to bring the network where it is needed."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featbank.backbones.recipe import Recipe
from featbank.backbones.request import Request
from featbank.extraction.messages import Network

if TYPE_CHECKING:
    from featbank.backbones.module import ModuleBackbone

__all__ = ["ModuleLoader", "RequestLoader"]

_KEPT = 2  # networks: a process that predicts again and again builds its network once
_loaded: OrderedDict[tuple[str, str], Network] = OrderedDict()


@dataclass(frozen=True)
class RequestLoader:
    """Brings a backbone of the registry; small, and travels to workers pickled."""

    request: Request
    recipe: Recipe

    def load(self, device: str) -> Network:
        """Build the network on a device; its weights must be those of the recipe."""
        from featbank.backbones.runtime import load

        key = (self.recipe.fingerprint, device)
        if key not in _loaded:
            _loaded[key] = load(self.request, self.recipe, device=device)
        _loaded.move_to_end(key)
        while len(_loaded) > _KEPT:
            _loaded.popitem(last=False)
        return _loaded[key]


@dataclass(frozen=True)
class ModuleLoader:
    """Brings a module of the caller's, whole; travels to workers if the module pickles."""

    backbone: ModuleBackbone

    def load(self, device: str) -> Network:
        """Move the module to a device."""
        return self.backbone.to(device)
