"""Training images of tuned weights: known by their digests, wherever the weights go.

A network that was fine-tuned on an image gives features of it that no head should be scored on. So
a file of tuned weights names its images, and so does the recipe of a bank that was made with it.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["TrainedOn"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class TrainedOn:
    """Images that weights were trained or chosen on.

    Attributes
    ----------
    digests : ndarray of shape (n, 32), uint8, or None
        SHA-256 of each image's bytes, sorted, each once; None where they are unknown.
    file : str
        Name of the file of weights, for messages.
    """

    digests: Array | None
    file: str = ""

    @classmethod
    def of(cls, digests: Array | None, *before: TrainedOn | None, file: str = "") -> Self:
        """Join digests with those of weights that a training began with.

        Parameters
        ----------
        digests : ndarray of shape (n, 32), uint8, or None
        *before : TrainedOn or None
            None for weights that were not tuned here.
        file : str
        """
        parts = [digests, *(one.digests for one in before if one is not None)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return cls(None, file)
        return cls(np.unique(np.concatenate(known).reshape(-1, 32), axis=0), file)

    @property
    def known(self) -> bool:
        """Whether the images are known."""
        return self.digests is not None

    def has(self, digests: Array) -> npt.NDArray[np.bool_]:
        """Return which of the images of these digests, shape (n, 32), are among them."""
        if self.digests is None:
            raise ValueError("the training images of these weights are unknown")
        return np.isin(_scalars(digests), _scalars(self.digests))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        text = None
        if self.digests is not None:
            text = base64.b64encode(self.digests.tobytes()).decode("ascii")
        return {"file": self.file, "digests": text}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` returned.

        Raises
        ------
        LookupError, TypeError, ValueError
            It is something else.
        """
        file, text = data["file"], data["digests"]
        if not isinstance(file, str) or not isinstance(text, str | None):
            raise TypeError("trained_on")
        if text is None:
            return cls(None, file)
        flat = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
        return cls(flat.reshape(-1, 32), file)

    def named(self, path: str | os.PathLike[str]) -> TrainedOn:
        """Return the same under the name of the file that it was read from."""
        return TrainedOn(self.digests, os.path.basename(os.fspath(path)))


def _scalars(digests: Array) -> Array:
    """Return digests as one value each, shape (n,)."""
    rows = np.ascontiguousarray(digests, np.uint8).reshape(-1, 32)
    return rows.view(np.dtype("V32"))[:, 0]
