"""A side of the benchmark: a process that loads once, then embeds a folder each time it is told to.

It is started with one JSON object, the case, and says in one JSON line that it is ready. For each
path on its standard input it runs once, writes its features there and says how long that took.
Between runs it waits, so that the sides of a case can take turns without starting anew.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["BATCH", "CannotRun", "images", "serve"]

BATCH = 32
"""Images in one forward pass of the sides that are told."""


class CannotRun(Exception):
    """The package has no way to embed with this network."""


def images(case: dict[str, Any]) -> list[Path]:
    """Return the files that a side embeds, sorted."""
    return sorted(path for path in Path(case["folder"]).rglob("*") if path.is_file())


def serve(
    load: Callable[[dict[str, Any]], Callable[[], tuple[np.ndarray | None, dict[str, Any]]]],
    *packages: str,
) -> None:
    """Answer the benchmark until it closes the pipe.

    Parameters
    ----------
    load : callable
        Takes the case; returns what runs once: features (n, d), sorted by path, or None, and
        figures that go into the answer beside ``seconds``.
    *packages : str
        Whose versions are told, where they are installed.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # some packages print

    def say(**words: Any) -> None:
        print(json.dumps(words), file=answers, flush=True)

    try:
        run = load(json.loads(sys.argv[1]))
    except CannotRun as error:
        say(skipped=str(error))
        return
    say(versions={name: metadata.version(name) for name in packages if _installed(name)})
    for line in sys.stdin:
        began = time.perf_counter()
        features, figures = run()
        seconds = time.perf_counter() - began
        if features is not None:
            np.save(line.strip(), features)
            figures = {"rate": len(features) / seconds, **figures}
        say(seconds=seconds, **figures)


def _installed(package: str) -> bool:
    return next(iter(metadata.distributions(name=package)), None) is not None
