"""torchvision's classification networks, with the transforms of their own weights."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank.backbones.recipe import Preprocess
from featbank.backbones.weights import State, classes_in, download, fill
from featbank.errors import BackboneError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["TorchvisionProvider", "from_preset", "last_scorer"]

_OWN_INITIAL = ("googlenet", "inception_v3")
_FIXED_INPUT = ("vit_", "maxvit_")
# Files of the first DenseNets say norm.1 where the network says norm1, and relu, conv likewise.
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


@functools.cache
def _names() -> tuple[str, ...]:
    import torchvision.models

    return tuple(sorted(torchvision.models.list_models(module=torchvision.models)))


class TorchvisionProvider:
    """Every network that ``torchvision.models.list_models`` lists for classification."""

    source = "torchvision"

    def names(self) -> list[str]:
        """Return the names of the networks, sorted."""
        return list(_names())

    def tags(self, name: str) -> tuple[str, ...]:
        """Return the names of torchvision's enum of weights."""
        import torchvision.models

        return tuple(w.name for w in torchvision.models.get_model_weights(name))

    def default_tag(self, name: str) -> str | None:
        """Return the name of the value that the enum's DEFAULT stands for."""
        return self._weights(name, "DEFAULT").name

    def _weights(self, name: str, tag: str) -> Any:
        import torchvision.models

        enum = torchvision.models.get_model_weights(name)
        tag = tag.removeprefix(f"{enum.__name__}.")
        try:
            return enum[tag]
        except KeyError:
            raise BackboneError(
                f"{name} has no weights {tag!r}, and there is no such file; "
                f"{nearest(tag, enum.__members__)}"
            ) from None

    def _place(self, name: str, tag: str) -> Path:
        import torch.hub

        url = self._weights(name, tag).url
        return Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)

    def local(self, name: str, tag: str) -> Path | None:
        """Return the file in torch.hub's folder of checkpoints, if it is there."""
        path = self._place(name, tag)
        return path if path.is_file() else None

    def fetch(self, name: str, tag: str) -> Path:
        """Return the file in torch.hub's folder of checkpoints, downloaded if need be."""
        path = self._place(name, tag)
        if not path.is_file():
            weights = self._weights(name, tag)
            download(weights.url, path, what=f"{name} ({weights.name})")
        return path

    def preprocess(self, name: str, tag: str | None, digest: str | None) -> Preprocess:
        """Return the preset of the weights; of a file, that of the published bytes it holds."""
        weights = self._weights(name, tag or "DEFAULT")
        if tag is None and digest is not None:
            # File names of torchvision end in the first digits of their digest.
            for published in type(weights):
                prefix = Path(published.url).stem.rpartition("-")[2]
                if len(prefix) >= 8 and digest.startswith(prefix):
                    weights = published
        return from_preset(weights.transforms())

    def check_input(self, name: str, tag: str | None, crop: tuple[int, int]) -> None:
        """Refuse another size than a transformer was trained for, or one that is too small."""
        if tag is None:
            return
        weights = self._weights(name, tag)
        smallest = tuple(weights.meta["min_size"])
        if name.startswith(_FIXED_INPUT) and crop != smallest:
            raise _fixed(name, smallest, crop)
        if crop[0] < smallest[0] or crop[1] < smallest[1]:
            raise BackboneError(
                f"{name} takes images from {smallest[0]} x {smallest[1]} pixels on, not "
                f"{crop[0]} x {crop[1]}; give a larger --input-size."
            )

    def build(
        self, name: str, tag: str | None, crop: tuple[int, int], state: State | None
    ) -> nn.Module:
        """Build the network in the form that its published weights have."""
        import torchvision.models

        builder = torchvision.models.get_model_builder(name)
        options: dict[str, Any] = {"weights": None}
        if name in _OWN_INITIAL:
            auxiliary = any(k.startswith(("aux1.", "AuxLogits.")) for k in state or ())
            options |= {"transform_input": True, "init_weights": state is None}
            options["aux_logits"] = auxiliary
        if name.startswith("vit_"):
            options["image_size"] = crop[0]
        elif name.startswith("maxvit_"):
            options["input_size"] = crop
        if state is not None:
            if name.startswith("densenet"):
                state = {_DENSENET.sub(r"\1\2", k): v for k, v in state.items()}
            options["num_classes"] = classes_in(state, self._final_layer(name), 1000)
        if name.startswith("vit_") and state is not None:
            trained = _vit_side(state, int(name.rpartition("_")[2]))
            if trained is not None and crop != (trained, trained):
                raise _fixed(name, (trained, trained), crop)
        try:
            network: nn.Module = builder(**options)
        except (ValueError, AssertionError) as error:
            raise BackboneError(
                f"{name} can't take images of {crop[0]} x {crop[1]} pixels ({error}); "
                "leave --crop and --input-size away."
            ) from error
        if state is not None:
            fill(network, state, name)
        return network

    def _final_layer(self, name: str) -> str:
        import torchvision.models

        from featbank.backbones.weightless import Weightless

        builder = torchvision.models.get_model_builder(name)
        options = {"init_weights": False} if name in _OWN_INITIAL else {}
        with Weightless():
            return last_scorer(builder(weights=None, **options)) or ""

    def classifier(self, network: nn.Module) -> str | None:
        """Return the last linear layer (the last convolution for SqueezeNet)."""
        return last_scorer(network)


def last_scorer(network: nn.Module) -> str | None:
    """Return the path of the last registered linear layer or convolution."""
    from torch import nn

    found = None
    for path, layer in network.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            found = path
    return found


def from_preset(preset: Any) -> Preprocess:
    """Return torchvision's ImageClassification preset as data."""
    crop, resize = preset.crop_size, preset.resize_size
    return Preprocess(
        resize=int(resize[0]) if len(resize) == 1 else (int(resize[0]), int(resize[1])),
        fit="short" if len(resize) == 1 else "squash",
        crop=(int(crop[0]), int(crop[-1])),
        interpolation=str(preset.interpolation.value),
        mean=tuple(float(v) for v in preset.mean),
        std=tuple(float(v) for v in preset.std),
    )


def _vit_side(state: dict[str, Tensor], patch: int) -> int | None:
    positions = state.get("encoder.pos_embedding")
    if positions is None or positions.ndim != 3:
        return None
    return patch * round((positions.shape[1] - 1) ** 0.5)


def _fixed(name: str, trained: tuple[int, ...], crop: tuple[int, int]) -> BackboneError:
    return BackboneError(
        f"{name} with these weights takes {trained[0]} x {trained[1]} pixels only, not "
        f"{crop[0]} x {crop[1]}; say --input-size {trained[0]}."
    )
