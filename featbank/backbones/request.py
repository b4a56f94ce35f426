"""The request: a backbone in the user's words, before anything is looked up."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any

from featbank.data.decode import DecodePolicy
from featbank.errors import BackboneError

__all__ = ["PRECISIONS", "RUNTIMES", "Request"]

PRECISIONS = ("float32", "bfloat16", "float16")
RUNTIMES = ("auto", "torch", "openvino")
FILE_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


@dataclass(frozen=True)
class Request:
    """What a user asks for; `featbank.backbones.resolve` makes a recipe of it.

    Attributes
    ----------
    model : str
        A name of `list_backbones`; ``timm/NAME`` or ``torchvision/NAME`` where both have it.
    weights : str
        ``"DEFAULT"``, the name of a torchvision enum value or a timm tag, a file
        (.safetensors or .pth), or ``"none"`` for a random network.
    resize, crop : int, optional
        Short side after resizing, and side of the square cut from the centre, in pixels.
    squash : bool
        Resize straight to the crop, whatever the proportions: nothing is cut off.
    input_size : int, optional
        Side of the network's input in pixels; the margin around the crop scales with it.
    precision : {"float32", "bfloat16", "float16"}
    runtime : {"auto", "torch", "openvino"}
        What runs the network; below float32 it is part of the recipe.
    decode : DecodePolicy
        How bytes become RGB.
    seed : int
        Of the random network of ``weights="none"``.
    """

    model: str
    weights: str = "DEFAULT"
    resize: int | None = None
    crop: int | None = None
    squash: bool = False
    input_size: int | None = None
    precision: str = "float32"
    runtime: str = "auto"
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.model or not self.weights:
            raise BackboneError("a request needs the name of a model and its weights.")
        for name in ("resize", "crop", "input_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BackboneError(f"{name} is {value}; give a number of pixels, 1 or more.")
        if self.precision not in PRECISIONS:
            raise BackboneError(
                f"precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}."
            )
        if self.runtime not in RUNTIMES:
            raise BackboneError(f"runtime is one of {', '.join(RUNTIMES)}, not {self.runtime!r}.")
        if self.runtime == "openvino" and self.precision == "float16":
            raise BackboneError(
                "OpenVINO computes in float32 or bfloat16; choose one of them, or --runtime torch."
            )
        if not 0 <= self.seed < 2**63:
            raise BackboneError(f"seed is a whole number from 0 on, not {self.seed}.")

    @property
    def file(self) -> str | None:
        """The absolute path of the weights file, where `weights` names a file."""
        looks_like_file = os.sep in self.weights or self.weights.lower().endswith(FILE_ENDINGS)
        if looks_like_file or os.path.isfile(self.weights):
            return os.path.abspath(os.path.expanduser(self.weights))
        return None

    @property
    def random(self) -> bool:
        """Whether a network without training is asked for."""
        return self.weights.lower() == "none"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["decode"] = self.decode.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Request:
        """Build from what `to_dict` returned."""
        try:
            for name in ("model", "weights", "precision", "runtime"):
                if not isinstance(data.get(name, ""), str):
                    raise TypeError(f"its {name} is {data[name]!r}")
            return cls(**{**data, "decode": DecodePolicy.from_dict(data["decode"])})
        except BackboneError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BackboneError(f"this is not a request that featbank can read: {error}") from error
