"""Layers: what a network computes on its way, caught by hooks in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from featbank.errors import BackboneError, UnknownLayer, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PENULTIMATE", "capture", "final_layer", "shapes"]

PENULTIMATE = "penultimate"
"""The input of the final layer."""


class _Reached(Exception):
    """The last layer that is wanted has run."""


def capture(
    network: nn.Module,
    inputs: Tensor,
    take: Mapping[str, Callable[[Tensor], Any]],
    *,
    final: str | None,
    stop: bool,
) -> dict[str, Any]:
    """Run the network and hand what each layer puts out to a function.

    Parameters
    ----------
    network : torch.nn.Module
    inputs : Tensor
    take : dict of str to callable
        By layer: a path of ``named_modules()``, or ``"penultimate"``. The function is called
        while the network runs: what is behind may overwrite the output in place.
    final : str or None
        Path of the final layer; None if the network's own output is the penultimate.
    stop : bool
        Stop when all layers have run once. Without, a layer that runs twice is found out.

    Returns
    -------
    dict of str to object
        What the functions returned.

    Raises
    ------
    UnknownLayer
        There is no such path.
    BackboneError
        A layer runs more than once, never, or puts out something else than a tensor.
    """
    modules = dict(network.named_modules())
    results: dict[str, Any] = {}

    def caught(layer: str, value: Any) -> None:
        if layer in results:
            raise BackboneError(
                f"layer {layer} runs more than once in one pass, so its features are not "
                "defined; choose the module that holds it."
            )
        results[layer] = take[layer](_tensor(layer, value))
        if stop and len(results) == len(take):
            raise _Reached

    handles = []
    try:
        for layer in take:
            if layer == PENULTIMATE and final is not None:
                handles.append(
                    modules[final].register_forward_pre_hook(
                        lambda module, args, layer=layer: caught(layer, args[0] if args else None)
                    )
                )
                continue
            path = "" if layer == PENULTIMATE else layer
            if path not in modules:
                names = [PENULTIMATE, *filter(None, modules)]
                raise UnknownLayer(f"the backbone has no layer {layer!r}; {nearest(layer, names)}")
            handles.append(
                modules[path].register_forward_hook(
                    lambda module, args, output, layer=layer: caught(layer, output)
                )
            )
        network(inputs)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    for layer in take:
        if layer not in results:
            raise BackboneError(
                f"layer {layer} never runs by itself (the network reads its parameters directly, "
                "or leaves it out); choose the module that holds it."
            )
    return results


def _tensor(layer: str, value: Any) -> Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise BackboneError(
            f"layer {layer} puts out {type(value).__name__}, not one tensor; choose a layer "
            "inside or behind it."
        )
    return value


def shapes(network: nn.Module, inputs: Tensor, *, final: str | None) -> dict[str, tuple[int, ...]]:
    """Return the shape, without the batch, of every layer that can be asked for.

    Layers that run more than once, never, or put out something else than one tensor with a row
    for each image are left out.
    """
    import torch

    found: dict[str, tuple[int, ...] | None] = {}

    def note(layer: str, value: Any) -> None:
        fits = isinstance(value, torch.Tensor) and value.shape[:1] == inputs.shape[:1]
        found[layer] = tuple(value.shape[1:]) if fits and layer not in found else None

    handles = []
    order = [PENULTIMATE]
    try:
        for path, module in network.named_modules():
            if path == final:
                handles.append(
                    module.register_forward_pre_hook(
                        lambda module, args: note(PENULTIMATE, args[0] if args else None)
                    )
                )
            layer = path or (PENULTIMATE if final is None else "")
            if layer:
                order.append(layer)
                handles.append(
                    module.register_forward_hook(
                        lambda module, args, output, layer=layer: note(layer, output)
                    )
                )
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: shape for layer in order if (shape := found.get(layer)) is not None}


def final_layer(network: nn.Module, inputs: Tensor) -> str | None:
    """Return the path of the linear layer whose output is the network's own, if there is one."""
    from torch import nn

    outputs: dict[str, Any] = {}

    def note(path: str, output: Any) -> None:
        outputs[path] = output

    handles = [
        module.register_forward_hook(lambda module, args, output, path=path: note(path, output))
        for path, module in network.named_modules()
        if path and isinstance(module, nn.Linear)
    ]
    try:
        result = network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return next((path for path, output in outputs.items() if output is result), None)
