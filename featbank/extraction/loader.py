"""Loaders: a backbone's description, ready to bring the network where it is needed."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featbank.backbones import graph
from featbank.backbones.graph import Graph
from featbank.backbones.recipe import Column, Recipe
from featbank.backbones.request import Request
from featbank.backbones.views import plain
from featbank.errors import BackboneError
from featbank.extraction.messages import Loader, Network

if TYPE_CHECKING:
    from featbank.backbones.module import ModuleBackbone
    from featbank.backbones.runtime import Backbone

__all__ = ["GraphLoader", "ModuleLoader", "RequestLoader", "fastest"]

log = logging.getLogger(__name__)

_KEPT = 2  # networks: a process that predicts again and again builds its network once
_loaded: OrderedDict[tuple[str, str], Network] = OrderedDict()
_graphs: dict[tuple[str, tuple[Column, ...]], Graph] = {}
"""Graphs that this process has found whole, so that it hashes their files once."""
_said: set[str] = set()


def _kept(key: tuple[str, str], load: Callable[[], Network]) -> Network:
    if key not in _loaded:
        _loaded[key] = load()
    _loaded.move_to_end(key)
    while len(_loaded) > _KEPT:
        _loaded.popitem(last=False)
    return _loaded[key]


@dataclass(frozen=True)
class RequestLoader:
    """Brings a backbone of the registry; small, and travels to workers pickled."""

    request: Request
    recipe: Recipe

    def load(self, device: str) -> Network:
        """Build the network on a device; its weights must be those of the recipe."""
        return _kept((self.recipe.fingerprint, device), lambda: self.build(device))

    def layers(self) -> Sequence[str]:
        """Return the paths of the network's layers, without its weights."""
        from featbank.backbones.registry import layer_names

        return layer_names(self.request.model, self.recipe.preprocess.crop)

    def build(self, device: str) -> Backbone:
        """Build the network, of which the process keeps none."""
        from featbank.backbones.runtime import load

        return load(self.request, self.recipe, device=device)


@dataclass(frozen=True)
class ModuleLoader:
    """Brings a module of the caller's, whole; travels to workers if the module pickles."""

    backbone: ModuleBackbone

    def load(self, device: str) -> Network:
        """Move the module to a device."""
        return self.backbone.to(device)

    def layers(self) -> Sequence[str]:
        """Return the paths of the module's layers."""
        return [name for name, _ in self.backbone.network.named_modules() if name]


@dataclass(frozen=True)
class GraphLoader:
    """Brings a graph; it needs no torch.

    Attributes
    ----------
    graph : Graph
    instead : RequestLoader or None
        What brings the same features where the graph's file is there no more.
    """

    graph: Graph
    instead: RequestLoader | None = None

    def load(self, device: str) -> Network:
        """Compile the graph, which runs on a CPU."""
        # Not by its digest: graphs of several precisions may have the same bytes.
        return _kept((self.graph.path, "graph" if self.instead is None else device), self._compiled)

    def _compiled(self) -> Network:
        try:
            self.graph.compile()
        except (OSError, RuntimeError) as error:
            if self.instead is None:
                raise
            log.warning("the cached graph can't be used (%s); torch runs the network", error)
            return self.instead.load("cpu")
        return self.graph


def fastest(loader: Loader, columns: Sequence[Column], *, device: str, make: bool = True) -> Loader:
    """Return what brings the same features soonest: a graph where one can be had, else `loader`.

    Parameters
    ----------
    loader : Loader
    columns : sequence of Column
    device : str
    make : bool
        Whether a graph that is not in the cache is made, which needs the network.

    Raises
    ------
    BackboneError
        The recipe or the user wants OpenVINO, which can't run the network.
    """
    if not isinstance(loader, RequestLoader):
        return loader
    recipe, told = loader.recipe, loader.request.runtime
    needed = "openvino" in (recipe.runtime, told)
    if device != "cpu":
        if needed:
            raise BackboneError(
                f"OpenVINO runs on the CPU, not on {device}; use --device cpu or --runtime torch."
            )
        return loader
    if "torch" in (recipe.runtime, told) or not graph.available():
        return loader
    columns = plain(columns)  # a graph runs once a view
    key = recipe.fingerprint, columns
    try:
        found = _graphs.get(key)
        if found is None or not os.path.exists(found.path):
            found = graph.find(recipe, columns)
        if found is None and make:
            found = graph.make(loader.build(device), columns)
    except BackboneError as error:
        if needed:
            raise BackboneError(
                f"OpenVINO can't run {recipe.backbone} ({error}); use --runtime torch."
            ) from error
        if recipe.fingerprint not in _said:
            _said.add(recipe.fingerprint)
            words = str(error).rstrip(".")
            log.warning("OpenVINO can't run %s (%s); torch is tried", recipe.backbone, words)
        return loader
    if found is None:
        return loader
    _graphs[key] = found
    return GraphLoader(found, None if needed else loader)
