"""The tunable network: a backbone whose final layer is a new head, and what of it trains.

The head stands where the backbone's classifier stood, so the tensors keep the names that the rest
of the world knows them by. Its input is what featbank calls the penultimate layer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from featbank.backbones import layers, resolution
from featbank.backbones.module import ModuleBackbone
from featbank.backbones.recipe import Preprocess, Recipe
from featbank.backbones.registry import find
from featbank.backbones.request import Request
from featbank.backbones.resolution import seeded
from featbank.errors import BackboneError, FineTuneError
from featbank.finetuning.settings import FineTuneSettings
from featbank.finetuning.stages import Stage, chosen, stages

__all__ = ["TunableNetwork", "tunable", "untrained"]


class LinearHead(nn.Linear):
    """A linear layer behind dropout; its tensors bear the names of a plain one."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__(inputs, outputs)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return super().forward(functional.dropout(x, self.dropout, self.training))


class ConvHead(nn.Conv2d):
    """A convolution of one pixel behind average pooling and dropout, for networks that end in one.

    The mean of a linear function is the function of the mean, so this is the layer that it stands
    for, followed by the pooling that comes later.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__(inputs, outputs, 1)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, K, 1, 1)."""
        pooled = x.mean((2, 3), keepdim=True)
        return super().forward(functional.dropout(pooled, self.dropout, self.training))


class Headed(nn.Module):
    """A network without a final layer of its own, with a head behind it."""

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        features = self.network(x)
        return self.head(features.mean((2, 3)) if features.ndim == 4 else features)


@dataclass(eq=False)
class TunableNetwork:
    """A network with a new head, and the preprocessing that belongs to it.

    Attributes
    ----------
    module : torch.nn.Module
        From pixels of shape (B, 3, H, W), scaled and normalised, to logits of shape (B, K).
    head_path : str
        Path of the new head in it.
    name : str
        The backbone's.
    preprocess : Preprocess
    recipe : Recipe or None
        Of the backbone as it was before; None for a module without a version.
    n_classes : int
    """

    module: nn.Module
    head_path: str
    name: str
    preprocess: Preprocess
    recipe: Recipe | None
    n_classes: int
    device: str = "cpu"

    @property
    def head(self) -> nn.Module:
        """The new head."""
        return self.module.get_submodule(self.head_path)

    @property
    def parameters(self) -> int:
        """How many numbers the network learns when everything trains."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def trainable(self) -> int:
        """How many of them train as it is frozen now."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    def to(self, device: str) -> TunableNetwork:
        """Move the network to a device, and return it."""
        self.module.to(device)
        for weight in self.module.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self.device = device
        return self

    def freeze(self, unfreeze: str | int | Sequence[str]) -> list[Stage]:
        """Let the head and what `unfreeze` names train, and nothing else.

        Returns
        -------
        list of Stage
            What trains of the backbone, by stage, the one nearest the head last.

        Raises
        ------
        UnknownLayer, FineTuneError
            See `featbank.finetuning.stages.chosen`.
        """
        taken = chosen(self.module, self.head_path, unfreeze, what=self.name)
        self.module.requires_grad_(False)
        self.head.requires_grad_(True)
        for parameter in taken:
            parameter.requires_grad_(True)
        parts = (
            (stage.name, tuple(p for p in stage.parameters if p.requires_grad))
            for stage in stages(self.module, self.head_path)
        )
        return [Stage(name, parameters) for name, parameters in parts if parameters]

    def train(self) -> None:
        """Put what trains into training mode, and what is frozen into evaluation mode.

        A layer without parameters, as dropout, goes with the layer that follows it.
        """
        following = True
        for module in reversed(list(self.module.modules())):
            own = list(module.parameters())
            if own:
                following = any(p.requires_grad for p in own)
            module.training = following

    def eval(self) -> None:
        """Put everything into evaluation mode."""
        self.module.eval()

    def inputs(self, pixels: Tensor) -> Tensor:
        """Scale and normalise pixels of shape (B, 3, H, W), uint8, on the network's device."""
        if self.device.startswith("cuda") and pixels.device.type == "cpu":
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.device, non_blocking=True)
        mean, std = (
            torch.tensor(v, device=pixels.device).view(-1, 1, 1)
            for v in (self.preprocess.mean, self.preprocess.std)
        )
        scaled = pixels.float().contiguous(memory_format=torch.channels_last).div_(255)
        return scaled.sub_(mean).div_(std)

    def features(self, inputs: Tensor) -> Tensor:
        """Return what the head sees, shape (B, D): the penultimate layer, averaged if it is a map.

        Without gradients, in the mode that the network is in.
        """
        found: list[Tensor] = []

        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            found.append(args[0].mean((2, 3)) if args[0].ndim == 4 else args[0].clone())

        handle = self.head.register_forward_pre_hook(note)
        try:
            with torch.no_grad():
                self.module(inputs)
        finally:
            handle.remove()
        return found[0]


def tunable(
    request: Request | ModuleBackbone,
    n_classes: int,
    settings: FineTuneSettings,
    recipe: Recipe | None = None,
) -> TunableNetwork:
    """Build a backbone with its weights and a new head, drawn from the settings' seed.

    Parameters
    ----------
    request : Request or ModuleBackbone
        A module is copied.
    n_classes : int
    settings : FineTuneSettings
        Those of the head count.
    recipe : Recipe, optional
        What `featbank.backbones.resolve` returned for the request.

    Returns
    -------
    TunableNetwork
        On the CPU, in evaluation mode, with nothing frozen.

    Raises
    ------
    FineTuneError
        The network can't be given another head.
    BackboneError
        The network or its weights can't be had.

    Examples
    --------
    >>> request = Request("squeezenet1_1", weights="none", input_size=64)
    >>> network = tunable(request, 3, FineTuneSettings())
    >>> network.head_path, tuple(network.head.weight.shape)
    ('classifier.1', (3, 512, 1, 1))
    """
    if isinstance(request, ModuleBackbone):
        return _of_module(request, n_classes, settings)
    if request.precision != "float32":
        raise FineTuneError(
            f"fine-tuning computes in float32 or in mixed precision, and {request.precision} "
            "features were asked for; leave the precision out."
        )
    network, classifier, recipe = resolution.build(request, recipe)
    return _with_head(
        network,
        classifier,
        settings,
        name=request.model,
        preprocess=recipe.preprocess,
        recipe=recipe,
        n_classes=n_classes,
    )


def untrained(
    request: Request, n_classes: int, settings: FineTuneSettings, recipe: Recipe
) -> TunableNetwork:
    """Build the same network as `tunable` without its weights, for a state that is loaded into it.

    Raises
    ------
    BackboneError, FineTuneError
    """
    found = find(request.model)
    network = found.provider.build(found.name, found.tag, recipe.preprocess.crop, None)
    return _with_head(
        network.eval(),
        found.provider.classifier(network),
        settings,
        name=request.model,
        preprocess=recipe.preprocess,
        recipe=recipe,
        n_classes=n_classes,
    )


def _of_module(
    backbone: ModuleBackbone, n_classes: int, settings: FineTuneSettings
) -> TunableNetwork:
    name = type(backbone.network).__name__
    if backbone.preprocess is None:
        raise FineTuneError(
            f"{name} comes with a transform function, which nothing can be put into; give "
            "from_module a Preprocess or a torchvision preset to fine-tune it."
        )
    network = copy.deepcopy(backbone.network).cpu().float().eval()
    classifier = backbone._classifier
    if classifier is None:
        with torch.no_grad():
            classifier = layers.final_layer(network, _blank(backbone.preprocess))
    return _with_head(
        network,
        classifier,
        settings,
        name=name,
        preprocess=backbone.preprocess,
        recipe=backbone.recipe,
        n_classes=n_classes,
    )


def _with_head(
    network: nn.Module,
    classifier: str | None,
    settings: FineTuneSettings,
    *,
    name: str,
    preprocess: Preprocess,
    recipe: Recipe | None,
    n_classes: int,
) -> TunableNetwork:
    """Put a head in the place of the classifier, and see that the network runs with it."""
    _drop_auxiliary(network)
    blank = _blank(preprocess)
    with torch.no_grad():
        try:
            found = layers.capture(
                network,
                blank,
                {layers.PENULTIMATE: lambda x: tuple(x.shape)},
                final=classifier,
                stop=True,
            )
        except BackboneError as error:
            raise FineTuneError(f"{name} can't be given another head: {error}") from error
    shape = found[layers.PENULTIMATE]
    final = None if classifier is None else network.get_submodule(classifier)
    conv = isinstance(final, nn.Conv2d)
    if conv and final is not None and final.kernel_size != (1, 1):
        raise FineTuneError(
            f"{name} ends in a convolution of {final.kernel_size}, which a new head can't replace; "
            "choose another network."
        )
    width = shape[1] if len(shape) in (2, 4) else shape[-1]
    if len(shape) == 4 and not conv and isinstance(final, nn.Linear):
        width = final.in_features
    with seeded(settings.random_state):
        head = _head(width, n_classes, settings, conv=conv)
    if classifier is None:
        network, head_path = Headed(network, head), "head"
    else:
        head_path = classifier
        _replace(network, classifier, head)
        if conv:
            _free_logits(network, classifier)
    made = TunableNetwork(network, head_path, name, preprocess, recipe, n_classes)
    made.module.requires_grad_(True)
    made.eval()
    try:
        with torch.no_grad():
            logits = made.module(blank)
        fits = isinstance(logits, Tensor) and logits.shape == (1, n_classes)
        complaint = "" if fits else "its output is not one number a class"
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        complaint = str(error).splitlines()[0]
    if complaint:
        kind = "nothing" if final is None else type(final).__name__
        raise FineTuneError(
            f"{name} can't be given another head in place of {classifier or 'its output'} ({kind}):"
            f" {complaint.rstrip('.')}; choose another network."
        )
    return made


def _head(inputs: int, outputs: int, settings: FineTuneSettings, *, conv: bool) -> nn.Module:
    """Return one linear layer, or linear-ReLU-dropout for each hidden size before it."""
    last = ConvHead if conv else LinearHead
    if not settings.hidden:
        return last(inputs, outputs, settings.dropout)
    parts: list[nn.Module] = []
    for size in settings.hidden:
        parts += [last(inputs, size, 0.0), nn.ReLU(), nn.Dropout(settings.dropout)]
        inputs = size
    return nn.Sequential(*parts, last(inputs, outputs, 0.0))


def _blank(preprocess: Preprocess) -> Tensor:
    return torch.zeros(1, 3, *preprocess.crop)


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def _free_logits(network: nn.Module, classifier: str) -> None:
    """Take away a ReLU behind the final convolution (SqueezeNet's): logits are of either sign."""
    parent = network.get_submodule(classifier.rpartition(".")[0])
    children = list(parent.named_children())
    at = next(i for i, (name, _) in enumerate(children) if name == classifier.rpartition(".")[2])
    if at + 1 < len(children) and isinstance(children[at + 1][1], nn.ReLU):
        setattr(parent, children[at + 1][0], nn.Identity())


def _drop_auxiliary(network: nn.Module) -> None:
    """Take away the classifiers in the middle of GoogLeNet and Inception."""
    if getattr(network, "aux_logits", False):
        network.aux_logits = False  # type: ignore[assignment]
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, name):
                setattr(network, name, None)
