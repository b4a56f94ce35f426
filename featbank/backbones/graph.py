"""The graph: a frozen network as an ONNX file, run on a CPU by OpenVINO, without torch.

A graph takes pixels and gives the columns that it was made for. It is made once from the eager
network, compared with it on images that it was not made with, and kept in the user's cache under
the recipe's fingerprint. Where it can't be made, or gives other features, the eager network runs.

OpenVINO was chosen by measurement: in float32 it is as exact as ONNX Runtime (relative error 3e-7
to 2e-6) and as fast or up to 1.4 times faster, and it computes in bfloat16 too, at twice the speed.

A graph's file name says what it was made of, and beside it lies the SHA-256 of its bytes: what was
changed since is made anew. It is only a cache; `_VERSION` is raised when other files are written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from featbank import durable
from featbank.backbones import preprocess
from featbank.backbones.device import available_cores
from featbank.backbones.memo import cache_dir
from featbank.backbones.recipe import Column, Preprocess, Recipe, canonical_json
from featbank.backbones.views import run_views
from featbank.errors import BackboneError

if TYPE_CHECKING:
    from featbank.backbones.runtime import Backbone

__all__ = ["TOLERANCE", "Graph", "available", "computes_in", "find", "make"]

TOLERANCE = {"float32": 1e-5, "bfloat16": 0.2}
"""Relative error of an image's features against the eager network in float32, at most.

What bfloat16 rounds off depends on the network (3e-3 to 6e-2 was measured); its bound only tells
rounding from another computation.
"""

_VERSION = 2
_INPUT = "pixels"
_PACKAGES = ("openvino", "torch", "torchvision", "timm")
_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_KEPT_SECONDS = 60 * 86400.0
_TRACED, _PROBED = 2, 3  # images; other numbers, so that a batch size that got stuck is seen


@dataclass(frozen=True)
class Graph:
    """A network that OpenVINO runs; it pickles as the path of its file.

    Attributes
    ----------
    path : str
    digest : str
        SHA-256 of the file's bytes, in hexadecimal.
    preprocess : Preprocess
    columns : tuple of Column
        What it gives.
    precision : {"float32", "bfloat16"}
        What it computes in.
    """

    path: str
    digest: str
    preprocess: Preprocess
    columns: tuple[Column, ...]
    precision: str

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
            Some of those that the graph gives, of whatever views.

        Returns
        -------
        dict of Column to ndarray of shape (B, D)
            In the column's dtype.
        """
        return run_views(self._run, batch, columns)

    def _run(
        self, batch: npt.NDArray[np.uint8], columns: Sequence[Column]
    ) -> dict[Column, npt.NDArray[np.floating[Any]]]:
        values = self.values(batch)
        with np.errstate(over="ignore"):
            return {
                column: values[self.columns.index(column)].astype(column.dtype, copy=False)
                for column in columns
            }

    def values(self, batch: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """Compute all columns, in float32."""
        found = self._compiled([np.ascontiguousarray(batch)])
        return [found[position] for position in range(len(self.columns))]

    def compile(self) -> None:
        """Bring the network into memory, which `run` does where it was not done before.

        Raises
        ------
        OSError
            The file is not the one that was found.
        RuntimeError
            OpenVINO can't read it.
        """
        _ = self._compiled

    @cached_property
    def _compiled(self) -> Any:
        data = Path(self.path).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise OSError(f"{self.path} was changed since it was made; delete it and run again.")
        core = _core()
        return core.compile_model(
            core.read_model(io.BytesIO(data)),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
                "INFERENCE_NUM_THREADS": _threads(),
                "PERFORMANCE_HINT": "LATENCY",
                "ENABLE_CPU_PINNING": False,  # workers would all be bound to the same core
            },
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


def _threads() -> int:
    """Return how many threads the network may use: one in a worker process."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told):
        return int(told)
    return available_cores()


def available() -> bool:
    """Whether graphs can be made and run here: the packages of the extra ``openvino`` are there."""
    return find_spec("openvino") is not None and find_spec("onnx") is not None


def computes_in(precision: str) -> bool:
    """Whether graphs can be run here in a precision; this processor may lack bfloat16."""
    if precision not in _HINTS or not available():
        return False
    if precision == "float32":
        return True
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def _core() -> Any:
    """Return the one `openvino.Core` of this process, which is never given back.

    Each gives the thread a stack for signals and, when it goes, restores the one before. Where the
    one before went first, the next signal falls on memory that is gone, and the process ends.
    """
    import openvino

    return openvino.Core()


def find(recipe: Recipe, columns: Sequence[Column]) -> Graph | None:
    """Return the graph that was made for a recipe and columns, if it is still whole.

    Raises
    ------
    BackboneError
        It was made once, and found to be of no use.
    """
    about = _about(recipe, columns)
    try:
        told = dict(json.loads(about.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    if "refused" in told:
        raise BackboneError(str(told["refused"]))
    try:
        path = about.parent / _file_name(about, told["sha256"])
        if hashlib.sha256(path.read_bytes()).hexdigest() != told["sha256"]:
            return None
        os.utime(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Graph(str(path), told["sha256"], recipe.preprocess, tuple(columns), recipe.precision)


def make(backbone: Backbone, columns: Sequence[Column]) -> Graph:
    """Make the graph of a backbone, compare their features, and keep it.

    Parameters
    ----------
    backbone : Backbone
        On a CPU, with a recipe.
    columns : sequence of Column

    Raises
    ------
    BackboneError
        The network can't be exported, the graph gives other features, or can't be kept.
    """
    import torch

    recipe = backbone.recipe
    assert recipe is not None
    about = _about(recipe, columns)
    try:
        with _quiet():
            data = _export(backbone, columns)
        digest = hashlib.sha256(data).hexdigest()
        path = about.parent / _file_name(about, digest)
        durable.make_directory(about.parent)
        _forget_unused(about.parent)
        durable.write_cache(path, data)
        graph = Graph(str(path), digest, recipe.preprocess, tuple(columns), recipe.precision)
        error = _error(backbone, graph)
        fits = error <= TOLERANCE[recipe.precision]
        told = (
            {"sha256": digest, "error": error, "versions": _versions()}
            if fits
            else {"refused": f"OpenVINO's features are off by {error:.1e}"}
        )
        _tell(about, told)
        if fits:
            return graph
        path.unlink(missing_ok=True)
    except Exception as error:  # whatever an exporter raises, the eager network is there
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, torch.onnx.OnnxExporterError):  # will be so the next time too
            with contextlib.suppress(OSError):
                _tell(about, {"refused": reason})
        raise BackboneError(reason) from error
    raise BackboneError(told["refused"])


def _about(recipe: Recipe, columns: Sequence[Column]) -> Path:
    """Return the path of the file that says what became of a graph."""
    made_of = {
        "version": _VERSION,
        "recipe": recipe.fingerprint,
        "columns": [column.name for column in columns],
        "versions": _versions(),
    }
    name = hashlib.sha256(canonical_json(made_of).encode()).hexdigest()[:32]
    return cache_dir() / "graphs" / f"{recipe.slug}-{name}.json"


def _file_name(about: Path, digest: str) -> str:
    """Two processes that make one graph at once may write other bytes: each its own file."""
    return f"{about.stem}-{digest[:16]}.onnx"


def _tell(about: Path, told: dict[str, Any]) -> None:
    durable.make_directory(about.parent)
    durable.write_cache(about, (canonical_json(told) + "\n").encode())


def _forget_unused(folder: Path) -> None:
    """Remove graphs that nothing has asked for in a long time."""
    for path in folder.glob("*.onnx"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - _KEPT_SECONDS:
                path.unlink()


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
    import torch

    height, width = graph.preprocess.crop
    pixels = np.random.default_rng(0).integers(0, 256, (_PROBED, height, width, 3), np.uint8)
    pixels[1] //= 4  # one that is dark, and one with large plain patches
    pixels[2, : height // 2] = pixels[2, 0, 0]
    with torch.inference_mode():  # and no context of a precision: in float32
        expected = backbone.compute(pixels, graph.columns)
    worst = 0.0
    for column, value in zip(graph.columns, graph.values(pixels), strict=True):
        a, b = expected[column].double().numpy(), value.astype(np.float64)
        scale = np.linalg.norm(a, axis=1) + np.finfo(np.float32).tiny
        worst = max(worst, float(np.max(np.linalg.norm(a - b, axis=1) / scale)))
    return worst
