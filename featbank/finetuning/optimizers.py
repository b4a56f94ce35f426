"""Optimizers: which parameters learn at which rate, and what moves them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from featbank.errors import MissingDependency
from featbank.finetuning.settings import FineTuneSettings

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

__all__ = ["make_optimizer", "parameter_groups"]


def parameter_groups(
    head: nn.Module,
    backbone_stages: Sequence[Iterable[nn.Parameter]],
    settings: FineTuneSettings,
    *,
    rate: float | None = None,
) -> list[dict[str, Any]]:
    """Return a network's parameters in groups of one learning rate and weight decay each.

    The head learns at the settings' rate, the stage next to it at `backbone_lr` times that, each
    stage further away at `layer_decay` times the one before (Howard & Ruder 2018,
    arXiv:1801.06146, call them discriminative rates). Biases and the parameters of norms, which
    have one dimension, do not decay.

    Parameters
    ----------
    head : torch.nn.Module
    backbone_stages : sequence of iterable of Parameter
        What trains of the backbone, the stage nearest the head last. A parameter that occurs
        again counts where it is nearest the head.
    settings : FineTuneSettings
    rate : float, optional
        Of the head; by default the settings' own.

    Returns
    -------
    list of dict
        With "params", "lr", "weight_decay" and "name": "head", or "stage 1" and so on in the
        order given. What decays and what does not bear the same name and rate. Groups that would
        be empty are left out.

    Examples
    --------
    >>> from torch import nn
    >>> stages = [list(nn.Conv2d(3, 4, 3).parameters())]
    >>> settings = FineTuneSettings(optimizer="sgd", lr=0.01, backbone_lr=0.1)
    >>> groups = parameter_groups(nn.Linear(4, 2), stages, settings)
    >>> for group in groups:
    ...     print(group["name"], round(group["lr"], 6), group["weight_decay"])
    stage 1 0.001 0.0001
    stage 1 0.001 0.0
    head 0.01 0.0001
    head 0.01 0.0
    """
    rate = settings.rate if rate is None else rate
    seen: set[int] = set()
    groups: list[dict[str, Any]] = []

    def add(name: str, parameters: Iterable[nn.Parameter], rate: float) -> None:
        fresh = [p for p in parameters if id(p) not in seen]
        seen.update(map(id, fresh))
        still = [p for p in fresh if p.ndim <= 1]
        decaying = [p for p in fresh if p.ndim > 1]
        for params, decay in ((still, 0.0), (decaying, settings.weight_decay)):
            if params:
                groups.append({"params": params, "lr": rate, "weight_decay": decay, "name": name})

    add("head", head.parameters(), rate)
    rate *= settings.backbone_lr
    for number in range(len(backbone_stages), 0, -1):
        add(f"stage {number}", backbone_stages[number - 1], rate)
        rate *= settings.layer_decay or 1.0
    return groups[::-1]


def make_optimizer(groups: list[dict[str, Any]], settings: FineTuneSettings) -> Optimizer:
    """Return the optimizer of the settings over groups of parameters.

    Weight decay is decoupled from the gradient in adamw (Loshchilov & Hutter 2017,
    arXiv:1711.05101) and added to it in sgd and adam, as in torch. Lookahead is timm's: every 6
    steps the weights go halfway back to where they were.

    Raises
    ------
    MissingDependency
        Lookahead is asked for, and timm is not installed.
    """
    from torch import optim

    optimizer: Optimizer
    if settings.optimizer == "sgd":
        optimizer = optim.SGD(groups, lr=settings.rate, momentum=settings.momentum)
    elif settings.optimizer == "adam":
        optimizer = optim.Adam(groups, lr=settings.rate)
    else:
        optimizer = optim.AdamW(groups, lr=settings.rate)
    if not settings.lookahead:
        return optimizer
    try:
        from timm.optim import Lookahead
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "lookahead needs timm, which is not installed; run `pip install 'featbank[timm]'`, or "
            "leave it out."
        ) from error
    return Lookahead(optimizer)
