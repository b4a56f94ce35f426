"""Stages: a network in the pieces that are unfrozen one after another, from its last to its first.

They are found by walking children, whatever the network is: ResNet's layer1 to layer4, the blocks
of an EfficientNet or of a transformer, the single layers of a VGG.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from featbank.errors import FineTuneError, UnknownLayer, nearest

__all__ = ["Stage", "chosen", "stages"]

_ENOUGH = 4
"""A network in fewer pieces is looked into further."""


@dataclass(frozen=True)
class Stage:
    """A piece of a network.

    Attributes
    ----------
    name : str
        Path of the module that it begins with.
    parameters : tuple of Parameter
    """

    name: str
    parameters: tuple[nn.Parameter, ...]


@dataclass
class _Piece:
    path: str
    module: nn.Module
    parameters: list[nn.Parameter]


def stages(network: nn.Module, head: str) -> list[Stage]:
    """Return the stages of a network without its head, the one nearest the head last.

    The largest container is replaced by its children until there are four pieces at least. A norm
    belongs to what it follows, and a parameter of a container (a class token) to what is in it.

    Parameters
    ----------
    network : torch.nn.Module
    head : str
        Path of the head.

    Examples
    --------
    >>> import torchvision
    >>> [stage.name for stage in stages(torchvision.models.resnet18(), "fc")]
    ['conv1', 'layer1', 'layer2', 'layer3', 'layer4']
    """
    skipped = network.get_submodule(head)
    pieces = _inside(_Piece("", network, []), skipped)
    solid: set[int] = set()
    while len(pieces) < _ENOUGH:
        open_ = [p for p in pieces if id(p.module) not in solid and any(p.module.children())]
        if not open_:
            break
        piece = max(open_, key=lambda p: sum(x.numel() for x in p.parameters))
        inside = _inside(piece, skipped)
        while len(inside) == 1 and any(inside[0].module.children()):
            inside = _inside(inside[0], skipped)
        if len(inside) < 2:
            solid.add(id(piece.module))
            continue
        at = pieces.index(piece)
        extra = [
            x for x in piece.parameters if all(x is not y for p in inside for y in p.parameters)
        ]
        inside[-1].parameters += extra  # norms that had joined the container
        pieces[at : at + 1] = inside
    return [Stage(p.path, tuple(p.parameters)) for p in pieces]


def _inside(piece: _Piece, skipped: nn.Module) -> list[_Piece]:
    """Return the children of a piece that have parameters, norms joined to what they follow."""
    taken = {id(x) for x in skipped.parameters()}
    found: list[_Piece] = []
    for name, child in piece.module.named_children():
        parameters = [x for x in child.parameters() if id(x) not in taken]
        if not parameters:
            continue
        taken.update(map(id, parameters))
        is_norm = all(x.ndim <= 1 for x in parameters)
        if found and is_norm:
            found[-1].parameters += parameters
        else:
            path = f"{piece.path}.{name}" if piece.path else name
            found.append(_Piece(path, child, parameters))
    own = [x for x in piece.module.parameters(recurse=False) if id(x) not in taken]
    if own and found:
        found[0].parameters[:0] = own
    elif own:
        found.append(_Piece(piece.path, nn.Identity(), own))  # nothing more to look into
    return found


def chosen(
    network: nn.Module, head: str, unfreeze: str | int | Sequence[str], *, what: str
) -> list[nn.Parameter]:
    """Return the parameters of the backbone that a setting unfreezes.

    Parameters
    ----------
    network : torch.nn.Module
    head : str
        Path of the head, which always trains and is not among them.
    unfreeze : str, int or sequence of str
        See `featbank.finetuning.settings.FineTuneSettings`.
    what : str
        The network, for messages.

    Raises
    ------
    UnknownLayer
        A pattern fits no module.
    FineTuneError
        A number is more than there are stages.
    """
    if unfreeze == "head":
        return []
    taken = {id(x) for x in network.get_submodule(head).parameters()}

    def unseen(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        fresh = [x for x in parameters if id(x) not in taken]
        taken.update(map(id, fresh))
        return fresh

    if unfreeze == "all":
        return unseen(network.parameters())
    if isinstance(unfreeze, int):
        found = stages(network, head)
        if unfreeze > len(found):
            raise FineTuneError(
                f"{what} has {len(found)} stages, and the last {unfreeze} were to train; give a "
                "smaller number, or 'all'."
            )
        return unseen(x for stage in found[-unfreeze:] for x in stage.parameters)
    patterns = unfreeze.split(",") if isinstance(unfreeze, str) else unfreeze
    modules = {path: module for path, module in network.named_modules() if path}
    result: list[nn.Parameter] = []
    for pattern in (p.strip() for p in patterns):
        paths = [path for path in modules if fnmatch.fnmatchcase(path, pattern)]
        if not paths:
            raise UnknownLayer(
                f"{what} has no layer {pattern!r} to unfreeze; {nearest(pattern, modules)}"
            )
        result += [x for path in paths for x in unseen(modules[path].parameters())]
    return result
