"""The tuned classifier: a fine-tuned network with its classes as one value, and its file.

The file is one of safetensors: the tensors of the whole network under its own names, so that other
tools read them as weights, and under ``featbank`` in the header's metadata a JSON text of
everything else. Its ``digest`` is of that text (without the digest) and of all tensors. It tells
damage from what was written, not a friend from a stranger: what the text asks to be built is
compared with the tensors that are there before it is built.

To raise `featbank.backbones.tuned.FORMAT`: write the new form, keep a reader of the old one beside
it, chosen by
``"format"``.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from featbank.backbones.recipe import Preprocess, Recipe, canonical_json
from featbank.backbones.request import Request
from featbank.backbones.trained_on import TrainedOn
from featbank.backbones.tuned import (
    FORMAT,
    KEY,
    MAX_HEADER,
    MAX_SIDE,
    digest_tuned,
    trained_on,
)
from featbank.classifier import Prediction
from featbank.durable import write_file
from featbank.errors import ClassifierError, FeatbankError
from featbank.finetuning.settings import FineTuneSettings
from featbank.regular import NotRegular, fits_in_memory, open_regular

if TYPE_CHECKING:
    from featbank.backbones.module import ModuleBackbone
    from featbank.finetuning.images import Images
    from featbank.finetuning.network import TunableNetwork

__all__ = ["TunedClassifier", "top_predictions"]


Array = npt.NDArray[Any]

_MAX_WORDS = 200
_OWN_CLASSIFIER = 50_000_000
"""Parameters that a backbone's own classifier has at most; the file has another in its place."""


@dataclass(eq=False)
class TunedClassifier:
    """A fine-tuned network and all that is needed to use it on new images.

    It holds plain arrays, and builds the network when it is first used; it pickles without it.

    Attributes
    ----------
    request : Request or ModuleBackbone
        The backbone in the words that find it, or a module of your own.
    preprocess : Preprocess
    recipe : Recipe or None
        Of the backbone as it was before; None for a module without a version.
    classes : tuple of str
        In the order of the network's outputs.
    settings : FineTuneSettings
        How it was trained; `hidden` and `dropout` say what the head is.
    head_path : str
        Where in the network the head is.
    state : dict of str to ndarray
        All parameters and buffers, by their names in the network.
    provenance : dict
        Plain data: when it was made, scores, history.
    trained_on : TrainedOn
        The images that it was trained and chosen on.

    Examples
    --------
    >>> tuned = TunedClassifier.load("finetune.safetensors")             # doctest: +SKIP
    >>> tuned.predict_proba(images).shape                                # doctest: +SKIP
    (12, 3)
    """

    request: Request | ModuleBackbone
    preprocess: Preprocess
    recipe: Recipe | None
    classes: tuple[str, ...]
    settings: FineTuneSettings
    head_path: str
    state: Mapping[str, Array] = field(repr=False)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    trained_on: TrainedOn = field(default_factory=lambda: TrainedOn(None), repr=False)
    _network: TunableNetwork | None = field(default=None, init=False, repr=False)

    notes: ClassVar[tuple[str, ...]] = ()
    probabilistic: ClassVar[bool] = True

    @classmethod
    def of(
        cls,
        request: Request | ModuleBackbone,
        network: TunableNetwork,
        classes: Sequence[str],
        settings: FineTuneSettings,
        provenance: Mapping[str, Any] | None = None,
        trained_on: TrainedOn | None = None,
    ) -> TunedClassifier:
        """Take a trained network's state as it is now."""
        state = {
            name: tensor.detach().cpu().contiguous().numpy().copy()
            for name, tensor in network.module.state_dict().items()
        }
        return cls(
            request,
            network.preprocess,
            network.recipe,
            tuple(classes),
            settings,
            network.head_path,
            state,
            dict(provenance or {}),
            trained_on or TrainedOn(None),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the network out."""
        return {**self.__dict__, "_network": None}

    @property
    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of the tensors, in hexadecimal."""
        return digest_tuned("", self.state)

    def network(self, device: str = "cpu") -> TunableNetwork:
        """Return the network with its weights, on a device, in evaluation mode.

        Raises
        ------
        ClassifierError
            The tensors do not fit the network.
        """
        if self._network is None:
            self._network = self._built()
        return self._network.to(device)

    def predict_proba(
        self,
        images: Images,
        *,
        batch_size: int = 64,
        device: str = "auto",
        workers: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return probabilities of shape (n, K), by the backbone's own preprocessing.

        Raises
        ------
        ImageError
            An image can't be read.
        """
        from featbank.backbones.device import pick_device
        from featbank.finetuning.trainer import predict_proba

        if not len(images):
            return np.empty((0, len(self.classes)), np.float32)
        return predict_proba(
            self.network(pick_device(device)),
            images,
            np.arange(len(images)),
            batch_size=batch_size,
            device=device,
            workers=workers,
        )

    def top(self, images: Images, k: int = 5, **words: Any) -> list[list[Prediction]]:
        """Return for each image its `k` most likely classes; words as in `predict_proba`."""
        return top_predictions(self.predict_proba(images, **words), self.classes, k)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the classifier to a ``.safetensors`` file, which appears whole or not at all.

        Raises
        ------
        ClassifierError
            The network is a module of the caller's, which no words find again.
        """
        from safetensors.numpy import save

        import featbank

        if not isinstance(self.request, Request) or self.recipe is None:
            raise ClassifierError(
                "a network that is a module of your own can't be saved as a classifier file; "
                "pickle it, or save its state."
            )
        described = {
            "format": FORMAT,
            "model": self.recipe.backbone,
            "source": self.recipe.source,
            "preprocess": self.preprocess.to_dict(),
            "classes": list(self.classes),
            "head": {
                "path": self.head_path,
                "hidden": list(self.settings.hidden),
                "dropout": self.settings.dropout,
            },
            "settings": self.settings.to_dict(),
            "recipe": self.recipe.to_dict(),
            "request": self.request.to_dict(),
            "provenance": self.provenance,
            "trained_on": self.trained_on.named(path).to_dict(),
            "versions": {"featbank": featbank.__version__},
        }
        described["digest"] = digest_tuned(canonical_json(described), self.state)
        data = save(dict(self.state), metadata={KEY: canonical_json(described)})
        write_file(os.fspath(path), data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TunedClassifier:
        """Read a classifier file; nothing in it is run.

        Raises
        ------
        ClassifierError
            The file can't be read, is damaged, is no classifier, or was written by a later
            featbank.
        """
        where = os.fspath(path)
        try:
            with open_regular(where) as file:
                data = file.read() if fits_in_memory(file) else b""
        except OSError as error:
            said = "" if isinstance(error, NotRegular) else "can't be read: "
            raise ClassifierError(f"{where!r} {said}{error.strerror}.") from error
        described = _described(data, where)
        state = _tensors(data, where)
        given = described.pop("digest", None)
        try:
            if given != digest_tuned(canonical_json(described), state):
                raise ClassifierError(
                    f"{where!r} is damaged: its bytes are not those that were written; copy it "
                    "again from where it was made."
                )
            settings = FineTuneSettings.from_dict(
                described["settings"] | {k: described["head"][k] for k in ("hidden", "dropout")}
            )
            recipe = Recipe.from_dict(described["recipe"])
            loaded = cls(
                request=Request.from_dict(described["request"]),
                preprocess=recipe.preprocess,
                recipe=recipe,
                classes=tuple(_texts(described["classes"])),
                settings=settings,
                head_path=str(described["head"]["path"]),
                state=state,
                provenance=dict(described["provenance"]),
                trained_on=trained_on(described).named(where),
            )
        except ClassifierError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError,
                ArithmeticError, FeatbankError) as error:  # fmt: skip
            raise ClassifierError(
                f"{where!r} is no classifier of featbank: its description lacks or garbles "
                f"{str(error)[:_MAX_WORDS]}."
            ) from error
        loaded._check_size(where)
        return loaded

    def _check_size(self, where: str) -> None:
        """Refuse a description of more than the file has numbers for, before it is built."""
        from featbank.backbones.registry import describe

        assert isinstance(self.request, Request)
        numbers = sum(array.size for array in self.state.values())
        widths = [*self.settings.hidden, len(self.classes)]
        head = sum(math.prod(pair) for pair in itertools.pairwise(widths)) + sum(widths)
        crop = self.preprocess.crop
        if head > numbers or len(set(self.classes)) != len(self.classes) or len(widths) > 100:
            raise ClassifierError(f"{where!r} is refused: its head is larger than its tensors.")
        if not all(0 < side <= MAX_SIDE for side in crop):
            raise ClassifierError(f"{where!r} is refused: its input has {crop[0]} x {crop[1]} px.")
        known = describe(self.request.model).parameters or 0
        if known > numbers + _OWN_CLASSIFIER:
            raise ClassifierError(
                f"{where!r} is refused: {self.request.model} has {known:,} parameters, and the "
                f"file {numbers:,}."
            )

    def _built(self) -> TunableNetwork:
        import torch

        from featbank.finetuning.network import tunable, untrained

        if isinstance(self.request, Request):
            assert self.recipe is not None
            network = untrained(self.request, len(self.classes), self.settings, self.recipe)
        else:
            network = tunable(self.request, len(self.classes), self.settings)
        state = {name: torch.from_numpy(array) for name, array in self.state.items()}
        try:
            network.module.load_state_dict(state)
        except RuntimeError as error:
            from featbank.backbones.weights import first_complaint

            raise ClassifierError(
                f"the tensors of this classifier do not fit {network.name}: "
                f"{first_complaint(error)}"
            ) from error
        network.module.requires_grad_(False)
        network.eval()
        return network


def top_predictions(probability: Array, classes: Sequence[str], k: int) -> list[list[Prediction]]:
    """Return for each row of probabilities its `k` most likely classes."""
    order = np.argsort(-probability, axis=1, kind="stable")[:, : max(1, k)]
    return [
        [Prediction(classes[c], float(row[c]), float(row[c])) for c in best]
        for row, best in zip(probability, order, strict=True)
    ]


def _described(data: bytes, where: str) -> dict[str, Any]:
    """Return what the header says of a classifier."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MAX_HEADER, len(data) - 8):
        raise ClassifierError(
            f"{where!r} is no classifier file of featbank, or it is cut short; copy it again from "
            "where it was made."
        )
    try:
        header = json.loads(data[8 : 8 + size])
        text = header.get("__metadata__", {}).get(KEY)
        described = None if text is None else json.loads(text)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ClassifierError(
            f"{where!r} is no classifier file of featbank: its header can't be read "
            f"({str(error)[:_MAX_WORDS]})."
        ) from error
    if not isinstance(described, dict):
        raise ClassifierError(
            f"{where!r} holds weights, and no classes; give it to --weights of a model instead."
        )
    version = described.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise ClassifierError(
            f"{where!r} was written in a later format ({str(version)[:20]}) than this featbank "
            f"reads ({FORMAT}); install a later one."
        )
    return described


def _tensors(data: bytes, where: str) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(data))
    except (SafetensorError, ValueError, TypeError, LookupError) as error:
        raise ClassifierError(
            f"{where!r} is damaged or no file of tensors ({str(error)[:_MAX_WORDS]}); copy it "
            "again from where it was made."
        ) from error


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("classes")
    return values
