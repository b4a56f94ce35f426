"""Small networks to train from scratch: what they reach is what transfer has to beat.

``small-cnn-3``
    Three convolutions of 32, 64 and 64 channels, each with ReLU and max pooling, and a hidden
    layer of 128: the network of tutorials on dogs and cats. Its images are 150 x 150 pixels, as in
    Keras' `Building powerful image classification models using very little data
    <https://blog.keras.io/building-powerful-image-classification-models-using-very-little-data.html>`_.
``small-cnn-4``
    Four convolutions of 32 channels with ReLU and max pooling, dropout of 0.25 after the second
    and the fourth, a hidden layer of 256 with dropout of 0.5: the network of ml4a's `notebook on
    transfer learning <https://ml4a.github.io/guides/>`_ (Caltech-101). Its images are 224 x 224
    pixels, as those of the VGG-16 that it is compared with.

Convolutions are 3 x 3 without padding. Images are resized whole to the input, whatever their
proportions, and pixels are brought to -1..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from featbank.backbones.recipe import Preprocess
from featbank.backbones.weights import State, classes_in, fill
from featbank.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SMALL", "SmallProvider"]


@dataclass(frozen=True)
class _Plan:
    """A network's sizes: `drop_after` says after which stages 0.25 of the values are dropped."""

    channels: tuple[int, ...]
    hidden: int
    side: int
    drop_after: tuple[int, ...] = ()
    dropout: float = 0.0
    classes: int = 2


SMALL = {
    "small-cnn-3": _Plan((32, 64, 64), 128, 150),
    "small-cnn-4": _Plan((32, 32, 32, 32), 256, 224, (2, 4), 0.5, 97),
}
"""The networks, by name; their classes are those of the tutorials until others are given."""


class SmallProvider:
    """Networks of a few convolutions, of which nobody publishes weights."""

    source = "small"

    def names(self) -> list[str]:
        """Return the names of the networks, sorted."""
        return sorted(SMALL)

    def tags(self, name: str) -> tuple[str, ...]:
        """Return no names: there are no published weights."""
        return ()

    def default_tag(self, name: str) -> str | None:
        """Return None: there are no published weights."""
        return None

    def local(self, name: str, tag: str) -> Path | None:
        """Refuse the name of weights."""
        self._refuse(name, tag)

    def fetch(self, name: str, tag: str) -> Path:
        """Refuse the name of weights."""
        self._refuse(name, tag)

    def _refuse(self, name: str, tag: str) -> NoReturn:
        raise BackboneError(
            f"{name} has no weights {tag!r}, and there is no such file; it is trained from "
            "scratch: give --weights none, or a file of weights."
        )

    def preprocess(self, name: str, tag: str | None, digest: str | None) -> Preprocess:
        """Return the whole image at the tutorial's size, pixels to -1..1."""
        size = (SMALL[name].side,) * 2
        half = (0.5, 0.5, 0.5)
        return Preprocess(size, "squash", size, "bilinear", half, half)

    def check_input(self, name: str, tag: str | None, crop: tuple[int, int]) -> None:
        """Refuse what is pooled away to nothing."""
        if min(_pooled(crop, len(SMALL[name].channels))) < 1:
            least = 1
            for _ in SMALL[name].channels:
                least = 2 * least + 2
            raise BackboneError(
                f"{name} takes images from {least} x {least} pixels on, not {crop[0]} x "
                f"{crop[1]}; give a larger --input-size."
            )

    def build(
        self, name: str, tag: str | None, crop: tuple[int, int], state: State | None
    ) -> nn.Module:
        """Build the network for images of this size."""
        self.check_input(name, tag, crop)
        plan = SMALL[name]
        network = _network(plan, crop, classes_in(state or {}, "classifier", plan.classes))
        if state is not None:
            given = getattr(state.get("hidden.1.weight"), "shape", (0, 0))
            if given != (expected := (plan.hidden, _inputs(plan, crop))) and len(given) == 2:
                raise BackboneError(
                    f"the weights do not fit {name} for images of {crop[0]} x {crop[1]} pixels: "
                    f"its hidden layer has {given[1]} inputs in the file, expected {expected[1]}; "
                    "give the --input-size that it was trained with."
                )
            fill(network, state, name)
        return network

    def classifier(self, network: nn.Module) -> str | None:
        """Return the path of the final layer."""
        return "classifier"


def _pooled(crop: tuple[int, int], stages: int) -> tuple[int, int]:
    """Return height and width after so many stages."""
    height, width = crop
    for _ in range(stages):
        height, width = (height - 2) // 2, (width - 2) // 2
    return height, width


def _inputs(plan: _Plan, crop: tuple[int, int]) -> int:
    """Return how many values the hidden layer takes."""
    height, width = _pooled(crop, len(plan.channels))
    return plan.channels[-1] * height * width


def _network(plan: _Plan, crop: tuple[int, int], classes: int) -> nn.Module:
    """Return the network: stage1 and so on, hidden, classifier."""
    from collections import OrderedDict

    from torch import nn

    parts: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    for number, channels in enumerate(plan.channels, 1):
        stage: list[nn.Module] = [nn.Conv2d(before, channels, 3), nn.ReLU(), nn.MaxPool2d(2)]
        if number in plan.drop_after:
            stage.append(nn.Dropout(0.25))
        parts[f"stage{number}"] = nn.Sequential(*stage)
        before = channels
    hidden: list[nn.Module] = [nn.Flatten(), nn.Linear(_inputs(plan, crop), plan.hidden), nn.ReLU()]
    if plan.dropout:
        hidden.append(nn.Dropout(plan.dropout))
    parts["hidden"] = nn.Sequential(*hidden)
    parts["classifier"] = nn.Linear(plan.hidden, classes)
    return nn.Sequential(parts)
