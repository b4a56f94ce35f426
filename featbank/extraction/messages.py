"""Messages: what a process with tasks and the run that hands them out say to each other.

They travel pickled between a parent and its own workers, and never from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt
from PIL import Image

from featbank.backbones.recipe import Column, Preprocess, Recipe
from featbank.data.decode import DecodeLimits, DecodePolicy, decode
from featbank.data.digests import Stat

__all__ = [
    "BackboneLoader",
    "Began",
    "Crashed",
    "Decoded",
    "Done",
    "Event",
    "Failed",
    "Loader",
    "Network",
    "Pages",
    "Reading",
    "Sealed",
    "Started",
    "Stop",
    "Task",
    "TaskSpec",
    "WorkerSpec",
]


class Network(Protocol):
    """What a task needs of a backbone (`featbank.backbones.runtime.Backbone`)."""

    def prepare(self, image: Image.Image) -> Any:
        """Bring a decoded image to the network's input."""

    def run(self, batch: Any, columns: Sequence[Column]) -> dict[Column, npt.NDArray[Any]]:
        """Embed a batch."""


class Loader(Protocol):
    """Brings a network where it is needed; travels to workers pickled."""

    def load(self, device: str) -> Network:
        """Build the network on a device."""


class BackboneLoader(Loader, Protocol):
    """A loader that knows the layers of its network."""

    def layers(self) -> Sequence[str]:
        """Return the paths of the network's layers, without its weights."""


@dataclass(frozen=True)
class Task:
    """Images to be read: their numbers in the run, and their paths."""

    items: tuple[int, ...]
    paths: tuple[bytes, ...]


@dataclass(frozen=True)
class Reading:
    """A file was read: the SHA-256 of its bytes, and its ``stat``."""

    item: int
    digest: bytes
    stat: Stat


@dataclass(frozen=True)
class Began:
    """Work on one image began; None: on the network, a whole batch at once."""

    item: int | None


@dataclass(frozen=True)
class Failed:
    """An image can't be read, and why; ``in_network`` if its features were no numbers."""

    item: int
    reason: str
    stat: Stat | None = None
    in_network: bool = False


@dataclass(frozen=True)
class Pages:
    """A file that was decoded holds several pages or frames."""

    item: int
    number: int


@dataclass(frozen=True)
class Decoded:
    """Images ready for the network, in the decode mode."""

    items: tuple[int, ...]
    arrays: Any


@dataclass(frozen=True)
class Sealed:
    """Rows of these images are durable."""

    items: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """The task is worked through; the process is free. Its seconds, by kind of work."""

    spent: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """The process has loaded the network, in so many seconds."""

    seconds: float


Event = Began | Failed | Pages | Decoded | Sealed | Started | Done


@dataclass(frozen=True)
class TaskSpec:
    """What every task of a run shares.

    Attributes
    ----------
    columns : tuple of Column
    policy, limits : how bytes become pixels, and which are refused.
    preprocess : Preprocess or None
        From pixels to the network's input; None leaves that to the process with the network.
    batch_size : int
    decode : callable
        As `featbank.data.decode.decode`.
    """

    columns: tuple[Column, ...]
    policy: DecodePolicy
    limits: DecodeLimits
    preprocess: Preprocess | None
    batch_size: int
    decode: Callable[..., Image.Image] = field(default=decode)


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is told first.

    Attributes
    ----------
    task : TaskSpec
    loader : Loader or None
        With a network the worker embeds and seals; without, it decodes only.
    patience : float
        Seconds that one image may take before the process ends itself. The pool's watchdog comes
        first, unless the parent is gone.
    bank, recipe, shard_rows, shard_seconds
        Where an embedding worker seals, and when.
    """

    task: TaskSpec
    loader: Loader | None = None
    patience: float = 3600.0
    bank: str | None = None
    recipe: Recipe | None = None
    shard_rows: int = 0
    shard_seconds: float = 0.0


@dataclass(frozen=True)
class Stop:
    """Seal what is not sealed yet, and end."""


@dataclass(frozen=True)
class Crashed:
    """An error that is not one image's: it ends the run."""

    error: Exception
