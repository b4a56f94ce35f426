"""The recipe: backbone, weights, preprocessing and precision as one value with a fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from featbank.backbones.views import VIEWS
from featbank.errors import BackboneError, nearest

__all__ = ["EXTRACTION_VERSION", "Column", "Preprocess", "Recipe", "canonical_json"]

EXTRACTION_VERSION = 1
"""Raised when featbank itself computes other features from the same words."""

POOLINGS = ("avg", "max", "avgmax", "gem", "cov", "cls", "flatten", "none")
DTYPES = ("float32", "float16")
_MAX_NAME = 200  # characters of a backbone's name, which becomes a folder's


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Preprocess:
    """From a decoded RGB image to the network's input, as data.

    Attributes
    ----------
    resize : int, tuple of (int, int), or None
        Length of a side after resizing; or (height, width) of a box; or None to leave the size
        alone.
    fit : {"short", "squash", "long", "transform"}
        How `resize` is meant: "short" brings the short side to it (covers the box), "squash" both
        sides, "long" the long side (fits into the box; the rest is padded by `crop`).
        "transform" stands for a caller's own function, which the version of the backbone vouches
        for; the other fields, apart from `decoder`, then say nothing.
    crop : tuple of (int, int)
        Height and width cut from the centre (padded with `fill` where the image is smaller).
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos"}
        Pillow's filter of this name, antialiased.
    mean, std : tuple of float
        Subtracted from and divided into pixels scaled to 0..1, a channel.
    fill : tuple of int
        Colour of padding, 0..255.
    decoder : dict
        What `featbank.data.decode.DecodePolicy.to_dict` says: how bytes become RGB.
    """

    resize: int | tuple[int, int] | None
    fit: str
    crop: tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fill: tuple[int, ...] = (0, 0, 0)
    decoder: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Preprocess:
        """Build from what `to_dict` returned (lists become tuples again)."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**plain)


@dataclass(frozen=True)
class Recipe:
    """Everything that features depend on, apart from the image's bytes and the column.

    Attributes
    ----------
    backbone : str
        The name under which the registry builds the network.
    source : {"package", "torchvision", "small", "timm", "module"}
        Who defines it.
    weights : str
        SHA-256 of the weights' bytes, in hexadecimal; for a random network ``"random-<seed>-"``
        and the digest of its parameters.
    preprocess : Preprocess
    precision : {"float32", "bfloat16", "float16"}
    runtime : str or None
        The engine that computes below float32 (engines differ there); None for float32.
    version : int
        `EXTRACTION_VERSION` that computed it; for a module of the caller's, see `backbone`.
    """

    backbone: str
    source: str
    weights: str
    preprocess: Preprocess
    precision: str = "float32"
    runtime: str | None = None
    version: int = EXTRACTION_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["preprocess"] = self.preprocess.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """Build from what `to_dict` returned."""
        try:
            recipe = cls(**{**data, "preprocess": Preprocess.from_dict(data["preprocess"])})
            _check_types(recipe)
            canonical_json(recipe.to_dict())
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise BackboneError(f"this is not a recipe that featbank can read: {error}") from error
        return recipe

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe's canonical JSON, in hexadecimal."""
        return hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()

    @property
    def slug(self) -> str:
        """``<backbone>-<first 8 digits of the fingerprint>``, with characters fit for a folder."""
        safe = "".join(c if c.isalnum() or c in "._" else "_" for c in self.backbone)
        return f"{safe}-{self.fingerprint[:8]}"

    def differences(self, other: Recipe) -> list[str]:
        """Return the dotted names of the fields in which two recipes differ."""

        def flat(value: Any, prefix: str) -> dict[str, Any]:
            if not isinstance(value, dict):
                return {prefix: value}
            found: dict[str, Any] = {}
            for key, item in value.items():
                found |= flat(item, f"{prefix}.{key}" if prefix else key)
            return found

        mine, theirs = (flat(json.loads(canonical_json(r.to_dict())), "") for r in (self, other))
        return sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("backbone", "source", "weights", "precision", "fit", "interpolation"), (str,)),
    "runtime": (str, type(None)),
    "version": (int,),
    "resize": (int, tuple, type(None)),
    "crop": (tuple,),
    **dict.fromkeys(("mean", "std", "fill"), (tuple,)),
    "decoder": (dict,),
}


def _check_types(recipe: Recipe) -> None:
    """Raise TypeError where a field of a recipe is of another kind than it must be."""
    fields = {**recipe.__dict__, **recipe.preprocess.__dict__}
    for name, kinds in _KINDS.items():
        value = fields[name]
        items = value if isinstance(value, tuple) else ()
        if not isinstance(value, kinds) or not all(isinstance(item, int | float) for item in items):
            raise TypeError(f"its {name} is {str(value)[:40]}")
    if len(recipe.backbone) > _MAX_NAME or len(recipe.preprocess.crop) != 2:
        raise TypeError("its backbone or its crop is no such thing")


@dataclass(frozen=True, order=True)
class Column:
    """One kind of features under a recipe: which layer, pooled and stored how, of which view.

    Attributes
    ----------
    layer : str
        A path of ``named_modules()``, whose output is taken; or ``"penultimate"``, the input of
        the final classifier.
    pooling : str
        One of avg, max, avgmax, gem, cov, cls, flatten, none. On features that are vectors already,
        avg and max change nothing.
    view : str
        How the prepared image was turned before embedding: one of
        `featbank.backbones.views.VIEWS`.
    dtype : {"float32", "float16"}
        As stored.
    """

    layer: str = "penultimate"
    pooling: str = "avg"
    view: str = "identity"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise BackboneError(f"pooling is one of {', '.join(POOLINGS)}, not {self.pooling!r}.")
        if self.dtype not in DTYPES:
            raise BackboneError(f"features are stored as float32 or float16, not {self.dtype!r}.")
        if self.view not in VIEWS:
            raise BackboneError(f"there is no view {self.view!r}: {nearest(self.view, VIEWS)}")
        if not self.layer or "/" in self.layer or ":" in self.layer:
            raise BackboneError(
                f"{self.layer!r} is no layer; `featbank models NAME --layers` lists them."
            )

    @property
    def name(self) -> str:
        """The column's name in a shard: ``layer:pooling:view:dtype``."""
        return f"{self.layer}:{self.pooling}:{self.view}:{self.dtype}"

    @classmethod
    def parse(cls, text: str, *, dtype: str = "float32") -> Column:
        """Read ``layer[:pooling[:view[:dtype]]]``, as ``--layers`` takes it and `name` writes it.

        `dtype` counts where the text names none.

        Examples
        --------
        >>> Column.parse("layer3:max").name
        'layer3:max:identity:float32'
        """
        parts = text.strip().split(":")
        if len(parts) > 4:
            raise BackboneError(f"a layer is written layer[:pooling[:view[:dtype]]], not {text!r}.")
        defaults = ("penultimate", "avg", "identity", dtype)
        return cls(*parts, *defaults[len(parts) :])
