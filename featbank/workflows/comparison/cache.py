"""The row cache: what rows of comparisons came to, found by all that they depend on.

Each row is a document ``<key>.json``, which holds its own digest and that of ``<key>.npz`` beside
it, with the predictions. The key is the SHA-256 of the canonical JSON of what the row depends on,
`FORMAT` included: raise that when rows mean something else, and old ones are not found again.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank import durable
from featbank.backbones.memo import cache_dir
from featbank.backbones.recipe import canonical_json
from featbank.bank.documents import read_document, write_document
from featbank.regular import open_regular

__all__ = ["FORMAT", "RowCache"]

FORMAT = 2

Array = npt.NDArray[Any]


class RowCache:
    """A folder of rows.

    Parameters
    ----------
    folder : path, optional
        Made when the first row is written; by default ``compare`` in the user's cache.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = os.path.abspath(cache_dir() / "compare" if folder is None else folder)

    def key(self, depends: Mapping[str, Any]) -> str:
        """Return the name of a row that depends on this."""
        text = canonical_json({"format": FORMAT, **depends})
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def is_writable(self) -> bool:
        """Tell whether there is a folder that can be written; it is made if need be."""
        try:
            durable.make_directory(self.folder)
            durable.try_writing(self.folder)
        except OSError:
            return False
        return True

    def training(self, key: str) -> str:
        """Return the folder in which the training of a row keeps what it would go on from."""
        return os.path.join(self.folder, f"{key}.training")

    def read(self, key: str) -> tuple[dict[str, Any], dict[str, Array]] | None:
        """Return a row and its arrays, or None where there is none.

        Raises
        ------
        OSError, BankDamaged, ValueError, LookupError, TypeError
            It is not what was written.
        """
        try:
            about = read_document(self._path(key, "json"))
        except FileNotFoundError:
            return None
        with open_regular(self._path(key, "npz"), follow=False) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != about["arrays"]:
            raise ValueError("its predictions are not those that were written")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return about["row"], dict(arrays)

    def write(
        self,
        key: str,
        row: Mapping[str, Any],
        arrays: Mapping[str, Array],
        depends: Mapping[str, Any],
    ) -> None:
        """Keep a row durably, and forget what its training would have gone on from.

        Raises
        ------
        OSError
            The disk is full, or the folder can't be written.
        """
        durable.make_directory(self.folder)
        held = io.BytesIO()
        np.savez_compressed(held, **arrays)  # type: ignore[arg-type]
        data = held.getvalue()
        durable.write_file(self._path(key, "npz"), data)
        write_document(
            self._path(key, "json"),
            {
                "format": 1,
                "arrays": hashlib.sha256(data).hexdigest(),
                "depends": dict(depends),
                "row": dict(row),
            },
        )
        self.forget_training(key)

    def forget_training(self, key: str) -> None:
        """Remove what a training would go on from, if there is anything."""
        if os.path.isdir(self.training(key)):
            durable.remove_folder(self.training(key))

    def _path(self, key: str, ending: str) -> str:
        return os.path.join(self.folder, f"{key}.{ending}")
