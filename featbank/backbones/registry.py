"""The registry: from the name of a backbone to the source that builds it."""

from __future__ import annotations

import fnmatch
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featbank.backbones.packages import PACKAGED, PackageProvider
from featbank.backbones.provider import Provider
from featbank.backbones.small import SMALL, SmallProvider
from featbank.backbones.timm import TimmProvider, import_timm
from featbank.backbones.torchvision import TorchvisionProvider
from featbank.errors import BackboneError, UnknownBackbone, nearest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PROVIDERS", "BackboneInfo", "Found", "describe", "find", "list_backbones"]

PROVIDERS: dict[str, Provider] = {
    "package": PackageProvider(),
    "torchvision": TorchvisionProvider(),
    "small": SmallProvider(),
    "timm": TimmProvider(),
}
"""By source; a plain name is looked for in this order."""


@dataclass(frozen=True)
class Found:
    """Where a name leads.

    Attributes
    ----------
    provider : Provider
    name : str
        As the provider knows it.
    tag : str or None
        Of the weights, where the name carries one (``timm/resnet50.a1_in1k``).
    """

    provider: Provider
    name: str
    tag: str | None = None


@dataclass(frozen=True)
class BackboneInfo:
    """What there is to know of a backbone before using it.

    Attributes
    ----------
    name : str
    source : {"package", "torchvision", "small", "timm"}
    weights : tuple of str
        Names for ``--weights``.
    default : str or None
        The one that ``DEFAULT`` stands for.
    input_size : int
        Side of the default weights' input, in pixels.
    local : bool
        Whether the default weights are on this machine.
    features : int or None
        Values in the penultimate layer after pooling; None where the network was not built.
    parameters : int or None
        Likewise.
    """

    name: str
    source: str
    weights: tuple[str, ...]
    default: str | None
    input_size: int
    local: bool
    features: int | None = None
    parameters: int | None = None


def find(model: str) -> Found:
    """Return the provider of a backbone.

    Parameters
    ----------
    model : str
        ``NAME``, ``SOURCE/NAME``, or for timm ``NAME.TAG``.

    Raises
    ------
    UnknownBackbone
        The message suggests the nearest names.
    MissingDependency
        The name starts with ``timm/``, and timm is not installed.
    """
    source, slash, rest = model.partition("/")
    if slash and source in PROVIDERS:
        wanted, name = [source], rest
    else:
        wanted, name = list(PROVIDERS), model
    for key, fixed in (("package", PACKAGED), ("small", SMALL)):
        if key in wanted and name in fixed:
            return Found(PROVIDERS[key], name)
    if "torchvision" in wanted and name in PROVIDERS["torchvision"].names():
        return Found(PROVIDERS["torchvision"], name)
    known: set[str] = set()
    if wanted != ["timm"]:
        known = {*PACKAGED, *SMALL, *PROVIDERS["torchvision"].names()}
    hint = ""
    if "timm" in wanted:
        if wanted == ["timm"]:
            import_timm()
        if _has_timm():
            bare, _, tag = name.partition(".")
            timm_names = PROVIDERS["timm"].names()
            if bare in timm_names or import_timm().is_model(bare):  # one of the caller's own
                if tag and tag not in PROVIDERS["timm"].tags(bare):
                    raise UnknownBackbone(
                        f"timm's {bare} has no weights {tag!r}; "
                        f"{nearest(tag, PROVIDERS['timm'].tags(bare))}"
                    )
                return Found(PROVIDERS["timm"], bare, tag or None)
            known |= set(timm_names)
        else:
            hint = " (timm's are not among them: pip install 'featbank[timm]')"
    raise UnknownBackbone(f"there is no backbone {model!r}; {nearest(name, known)}{hint}")


def list_backbones(pattern: str | None = None, *, source: str | None = None) -> list[str]:
    """Return the names of backbones, sorted.

    Parameters
    ----------
    pattern : str, optional
        With ``*`` or ``?``, a shell pattern; otherwise a part of the name.
    source : {"package", "torchvision", "small", "timm"}, optional
        Only this one. timm's names are left out where timm is not installed.

    Returns
    -------
    list of str
        Each as `Request.model` takes it: ``timm/NAME`` where torchvision has that name too.
    """
    if source is not None and source not in PROVIDERS:
        raise BackboneError(f"there is no source {source!r}; {nearest(source, PROVIDERS)}")
    if source == "timm":
        import_timm()
    taken: set[str] = set()
    found: list[str] = []
    for key, provider in PROVIDERS.items():
        if key == "timm" and not _has_timm():
            continue
        names = provider.names()
        if source in (None, key):
            found += [f"{key}/{n}" if n in taken else n for n in names]
        taken.update(names)
    if pattern:
        shell = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
        found = [n for n in found if fnmatch.fnmatchcase(n.lower(), shell.lower())]
    return sorted(found)


def describe(name: str, *, build: bool = True) -> BackboneInfo:
    """Return what there is to know of a backbone.

    Parameters
    ----------
    name : str
    build : bool
        Build the network, without memory for its weights (tens of milliseconds), to count its
        features and parameters.

    Raises
    ------
    UnknownBackbone, MissingDependency
    """
    found = find(name)
    provider = found.provider
    default = found.tag or provider.default_tag(found.name)
    preprocess = provider.preprocess(found.name, default, None)
    features = parameters = None
    if build:
        network = _weightless(found, default, preprocess.crop)
        features = _width(network, provider.classifier(network))
        parameters = sum(p.numel() for p in network.parameters())
    return BackboneInfo(
        name=name,
        source=provider.source,
        weights=provider.tags(found.name),
        default=default,
        input_size=preprocess.crop[0],
        local=default is not None and provider.local(found.name, default) is not None,
        features=features,
        parameters=parameters,
    )


def layer_names(model: str, crop: tuple[int, int]) -> list[str]:
    """Return the paths of a backbone's modules; its weights are not needed.

    Raises
    ------
    UnknownBackbone, MissingDependency
    """
    found = find(model)
    tag = found.tag or found.provider.default_tag(found.name)
    return [name for name, _ in _weightless(found, tag, crop).named_modules() if name]


def _weightless(found: Found, tag: str | None, crop: tuple[int, int]) -> nn.Module:
    """Build a network without memory for its weights."""
    import torch

    from featbank.backbones.weightless import Weightless

    # Some of timm's networks run once while they are built: then all must be weightless.
    timm_builds_it = found.provider.source != "torchvision"
    with torch.device("meta") if timm_builds_it else Weightless():
        return found.provider.build(found.name, tag, crop, None)


def _width(network: nn.Module, classifier: str | None) -> int | None:
    """Return how many values the final layer takes an image, as far as it says."""
    if classifier is None:
        return None
    final = network.get_submodule(classifier)
    for attribute in ("in_features", "in_channels"):
        if isinstance(width := getattr(final, attribute, None), int):
            return width
    width = getattr(network, "head_hidden_size", None) or getattr(network, "num_features", None)
    return width if isinstance(width, int) else None


def _has_timm() -> bool:
    return importlib.util.find_spec("timm") is not None
