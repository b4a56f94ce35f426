"""Tuned weights: a file of fine-tuned weights that says which network it is of, and prepared how.

`featbank.finetuning.tuned` writes it: safetensors whose header holds, under ``featbank``, a JSON
text. Here the backbone is read out of it, so that ``--weights tuned.safetensors`` gives features
of the tuned network.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featbank.backbones.preprocess import FITS, INTERPOLATIONS
from featbank.backbones.recipe import Preprocess, Recipe, canonical_json
from featbank.backbones.trained_on import TrainedOn
from featbank.backbones.weights import State, fill
from featbank.errors import BackboneError
from featbank.regular import open_regular

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "FORMAT",
    "KEY",
    "MAX_HEADER",
    "MAX_SIDE",
    "TunedWeights",
    "describe_weights",
    "digest_tuned",
    "trained_on",
]

KEY = "featbank"
_WRAPPED = "network."
FORMAT = 2
"""Files of format 1 do not say which images they were trained on."""
MAX_HEADER = 1 << 26
MAX_SIDE = 4096


@dataclass(frozen=True)
class TunedWeights:
    """What a file of tuned weights says of itself.

    Attributes
    ----------
    path : str
    model, source : str
        The backbone, as a recipe names it.
    preprocess : Preprocess
        What it was tuned with.
    head : str
        Path of the new head, where the backbone's final layer was.
    text : str
        The description without its digest.
    digest : str or None
        What `digest_tuned` gave when the file was written.
    trained_on : TrainedOn
    """

    path: str
    model: str
    source: str
    preprocess: Preprocess
    head: str
    text: str = ""
    digest: str | None = None
    trained_on: TrainedOn = field(default_factory=lambda: TrainedOn(None))

    def check(self, model: str, source: str) -> None:
        """Refuse another backbone than the file is of.

        Raises
        ------
        BackboneError
        """
        if (model, source) != (self.model, self.source):
            named = f"{self.source}/{self.model}" if model == self.model else self.model
            raise BackboneError(
                f"{self.path} holds weights of a tuned {named}, not of {model}; say --model "
                f"{named}."
            )

    def verify(self, state: State) -> None:
        """Refuse tensors that are not those that were written.

        Raises
        ------
        BackboneError
        """
        if self.digest is None:
            return
        if digest_tuned(self.text, {k: v.numpy() for k, v in state.items()}) != self.digest:
            raise BackboneError(
                f"{self.path} is damaged: its bytes are not those that were written; copy it again "
                "from where it was made."
            )

    def is_plain(self, state: State, network: nn.Module) -> bool:
        """Tell whether the tensors are those of the backbone with another number of classes.

        A new head of one layer may still have a bias where the backbone's has none.
        """
        return set(state) == set(network.state_dict())

    def _is_wrapped(self, state: State) -> bool:
        """Tell whether the head was put behind a whole network that has no final layer."""
        rest = [name for name in state if not name.startswith(f"{self.head}.")]
        return self.head == "head" and all(name.startswith(_WRAPPED) for name in rest)

    def pour(self, network: nn.Module, state: State, classifier: str | None) -> None:
        """Load the backbone's tensors into `network`, and none of a head that it can't hold.

        Its own final layer, at `classifier`, becomes zero: what comes out there stands for nothing.

        Raises
        ------
        BackboneError
            They do not fit.
        """
        import torch

        prefix = _WRAPPED if self._is_wrapped(state) else ""
        whole = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if not name.startswith(f"{self.head}.")
        }
        if classifier is not None:
            for name, tensor in network.get_submodule(classifier).state_dict().items():
                whole[f"{classifier}.{name}"] = torch.zeros_like(tensor)
        fill(network, whole, self.model)


def describe_weights(path: str | os.PathLike[str]) -> TunedWeights | None:
    """Return what a file of weights says of itself; None if it is not featbank's.

    Raises
    ------
    BackboneError
        It was written by a later featbank, or what it says makes no sense.
    """
    where = os.fspath(path)
    if not where.lower().endswith(".safetensors"):
        return None
    try:
        with open_regular(where) as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(MAX_HEADER, os.fstat(file.fileno()).st_size):
                return None
            text = json.loads(file.read(size))["__metadata__"][KEY]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None  # whoever reads its tensors finds out what is wrong with it
    try:
        described = json.loads(text)
        version = described["format"]
        digest = described.pop("digest", None)
        if isinstance(version, int) and version <= FORMAT:
            return TunedWeights(
                path=where,
                model=_text(described["model"]),
                source=_text(described["source"]),
                preprocess=_preprocess(described["preprocess"]),
                head=_text(described["head"]["path"]),
                text=canonical_json(described),
                digest=digest,
                trained_on=trained_on(described).named(where),
            )
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BackboneError(
            f"{where} says of itself what can't be read ({str(error)[:80]}); copy it again from "
            "where it was made."
        ) from error
    raise BackboneError(
        f"{where} was written in a later format ({str(version)[:20]}) than this featbank reads "
        f"({FORMAT}); install a later one."
    )


def trained_on(described: Mapping[str, Any]) -> TrainedOn:
    """Return the training images that a description names.

    Raises
    ------
    LookupError, TypeError, ValueError
    """
    if described["format"] < 2:
        return TrainedOn(None)
    return TrainedOn.from_dict(described["trained_on"])


def digest_tuned(text: str, state: Mapping[str, Any]) -> str:
    """Return the SHA-256 over a description and all tensors (as ndarrays), in hexadecimal."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(state):
        array = state[name]
        digest.update(f"\0{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{str(value)[:40]!r} is no name")
    return value


def _preprocess(data: Any) -> Preprocess:
    """Return the preprocessing, if images can be prepared by it."""
    # A recipe checks the types.
    plain = {"backbone": "", "source": "", "weights": "", "preprocess": data}
    found = Recipe.from_dict(plain).preprocess
    resize = found.resize if isinstance(found.resize, tuple) else (found.resize or 1,)
    if (
        found.fit not in FITS
        or found.interpolation not in INTERPOLATIONS
        or not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in found.crop + resize)
        or not len(found.mean) == len(found.std) == len(found.fill) == 3
    ):
        raise ValueError("its preprocessing")
    return found
