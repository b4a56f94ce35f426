"""The graph: a frozen network as an ONNX file, run on a CPU by ONNX Runtime, without torch.

A graph takes pixels and gives the columns that it was made for. It is made once from the eager
network, compared with it on images that it was not made with, and kept in the user's cache under
the recipe's fingerprint. Where it can't be made, or gives other features, the eager network runs.

A graph's file name says what it was made of, and beside it lies the SHA-256 of its bytes: what was
changed since is made anew. It is only a cache; `_VERSION` is raised when other files are written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from featbank import durable
from featbank.backbones import preprocess
from featbank.backbones.memo import cache_dir
from featbank.backbones.recipe import Column, Preprocess, Recipe, canonical_json

if TYPE_CHECKING:
    from featbank.backbones.runtime import Backbone

__all__ = ["TOLERANCE", "Graph", "available", "find", "make"]

log = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""Relative error of an image's features against the eager network, at most."""

_VERSION = 1
_INPUT = "pixels"
_PACKAGES = ("onnxruntime", "torch", "torchvision", "timm")
_TRACED, _PROBED = 2, 3  # images; other numbers, so that a batch size that got stuck is seen


@dataclass(frozen=True)
class Graph:
    """A network that ONNX Runtime runs; it pickles as the path of its file.

    Attributes
    ----------
    path : str
    digest : str
        SHA-256 of the file's bytes, in hexadecimal.
    preprocess : Preprocess
    columns : tuple of Column
        What it gives.
    """

    path: str
    digest: str
    preprocess: Preprocess
    columns: tuple[Column, ...]

    def prepare(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Turn a decoded RGB image into one row of a batch: (H, W, 3), uint8."""
        return preprocess.apply(self.preprocess, image)

    def run(
        self, batch: npt.NDArray[np.uint8], columns: Sequence[Column]
    ) -> dict[Column, npt.NDArray[np.floating[Any]]]:
        """Compute features.

        Parameters
        ----------
        batch : ndarray of shape (B, H, W, 3), uint8
        columns : sequence of Column
            Some of those that the graph gives.

        Returns
        -------
        dict of Column to ndarray of shape (B, D)
            In the column's dtype.
        """
        names = [column.name for column in columns]
        values = self._session.run(names, {_INPUT: np.ascontiguousarray(batch)})
        with np.errstate(over="ignore"):
            return {
                column: value.astype(column.dtype, copy=False)
                for column, value in zip(columns, values, strict=True)
            }

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        data = Path(self.path).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise OSError(f"{self.path} was changed since it was made; delete it and run again.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("path", "digest", "preprocess", "columns")}


def _threads() -> int:
    """Return how many threads the network may use: one in a worker process."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told):
        return int(told)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system can tell
        return os.cpu_count() or 1


def available() -> bool:
    """Whether graphs can be made and run here: the packages of the extra ``onnx`` are there."""
    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None


def find(recipe: Recipe, columns: Sequence[Column]) -> Graph | None:
    """Return the graph that was made for a recipe and columns, if it is still whole."""
    path = _path(recipe, columns)
    try:
        digest = json.loads(path.with_suffix(".json").read_bytes())["sha256"]
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Graph(str(path), digest, recipe.preprocess, tuple(columns))


def make(backbone: Backbone, columns: Sequence[Column]) -> Graph | None:
    """Make the graph of a backbone and keep it; None, and a line in the log, if that fails.

    Parameters
    ----------
    backbone : Backbone
        On a CPU, in float32, with a recipe.
    columns : sequence of Column
    """
    recipe = backbone.recipe
    assert recipe is not None
    path = _path(recipe, columns)
    try:
        with _quiet():
            data = _export(backbone, columns)
        digest = hashlib.sha256(data).hexdigest()
        durable.make_directory(path.parent)
        durable.write_file(path, data)
        graph = Graph(str(path), digest, recipe.preprocess, tuple(columns))
        error = _error(backbone, graph)
        if not error <= TOLERANCE:
            log.info("%s: ONNX Runtime is off by %.1e; torch runs it", recipe.backbone, error)
            path.unlink()
            return None
        told = {"sha256": digest, "error": error, "versions": _versions()}
        durable.write_file(path.with_suffix(".json"), (canonical_json(told) + "\n").encode())
    except Exception as error:  # whatever an exporter raises, the eager network is there
        log.info("%s can't be run by ONNX Runtime (%s); torch runs it", recipe.backbone, error)
        return None
    return graph


def _path(recipe: Recipe, columns: Sequence[Column]) -> Path:
    made_of = {
        "version": _VERSION,
        "recipe": recipe.fingerprint,
        "columns": [column.name for column in columns],
        "versions": _versions(),
    }
    name = hashlib.sha256(canonical_json(made_of).encode()).hexdigest()[:32]
    return cache_dir() / "graphs" / f"{recipe.slug}-{name}.onnx"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _export(backbone: Backbone, columns: Sequence[Column]) -> bytes:
    import torch

    class Whole(torch.nn.Module):
        """From pixels to columns, as `Backbone.run` does it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = backbone.network

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = backbone.compute(pixels, columns)
            return tuple(found[column] for column in columns)

    assert backbone.preprocess is not None
    pixels = torch.zeros((_TRACED, *backbone.preprocess.crop, 3), dtype=torch.uint8)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX form
    try:
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "graph.onnx")
            torch.onnx.export(
                Whole().eval(),  # the exporter puts the network back into the mode of the whole
                (pixels,),
                path,
                input_names=[_INPUT],
                output_names=[column.name for column in columns],
                dynamic_axes={n: {0: "batch"} for n in (_INPUT, *(c.name for c in columns))},
                # Tracing sees the hooks, and takes half a second where the newer exporter takes
                # seven.
                dynamo=False,
            )
            return path.read_bytes()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from talking: what it warns of, the comparison finds."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _error(backbone: Backbone, graph: Graph) -> float:
    """Return the largest relative error of an image's features in any column."""
    height, width = graph.preprocess.crop
    pixels = np.random.default_rng(0).integers(0, 256, (_PROBED, height, width, 3), np.uint8)
    pixels[1] //= 4  # one that is dark, and one with large plain patches
    pixels[2, : height // 2] = pixels[2, 0, 0]
    expected, got = backbone.run(pixels, graph.columns), graph.run(pixels, graph.columns)
    worst = 0.0
    for column in graph.columns:
        a, b = expected[column].astype(np.float64), got[column].astype(np.float64)
        scale = np.linalg.norm(a, axis=1) + np.finfo(np.float32).tiny
        worst = max(worst, float(np.max(np.linalg.norm(a - b, axis=1) / scale)))
    return worst
