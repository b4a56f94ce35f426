"""Settings: how a network is fine-tuned, as one value that can be compared and cached by."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from featbank.errors import FineTuneError, nearest

__all__ = [
    "AUGMENTS",
    "INITS",
    "MONITORS",
    "OPTIMIZERS",
    "SCHEDULES",
    "FineTuneSettings",
]

OPTIMIZERS = {"sgd": 1e-2, "adam": 1e-3, "adamw": 1e-3}
"""By name, the learning rate of the head where none is given."""
SCHEDULES = ("constant", "step", "cosine", "one-cycle")
AUGMENTS = ("none", "light", "crop", "flowers", "standard", "strong")
INITS = ("random", "probe")
MONITORS = ("loss", "accuracy")


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings:
    """What trains, how, and when it ends; the words of ``featbank finetune`` and of Python.

    Attributes
    ----------
    unfreeze : str, int or sequence of str, default="all"
        What trains besides the new head: ``"all"``, ``"head"`` (nothing else), module paths or
        shell patterns of them (``"layer4"``, ``"blocks.[56]*"``), with all that is inside; or a
        number n, the last n stages of the network.
    hidden : sequence of int
        Sizes of hidden layers of the new head, each linear-ReLU-dropout; none by default.
    dropout : float
        After each hidden layer; without hidden layers before the linear one.
    init : {"random", "probe"}
        How the head starts: "probe" from a logistic regression fitted on the frozen features of
        the same training rows (Kumar et al. 2022, arXiv:2202.10054).
    epochs : int
        Of everything that trains.
    head_epochs : int
        Epochs of the head alone before.
    batch_size : int
    optimizer : {"sgd", "adam", "adamw"}
    lr : float, optional
        Learning rate of the head; by default 0.01 for sgd, else 0.001.
    head_lr : float, optional
        Learning rate in the epochs of the head alone; by default `lr`.
    backbone_lr : float
        The backbone's learning rate over the head's.
    layer_decay : float, optional
        Each stage further from the head has its rate multiplied by this once more.
    momentum : float
        Of sgd.
    weight_decay : float
    lookahead : bool
        Lookahead over the optimizer (Zhang et al. 2019, arXiv:1907.08610).
    schedule : {"constant", "step", "cosine", "one-cycle"}
    warmup : float
        Share of the steps in which the rate rises linearly; of cosine and one-cycle.
    step_epochs, gamma : int, float
        Of step: every so many epochs the rate is multiplied by gamma.
    augment : {"none", "light", "crop", "flowers", "standard", "strong"}
        See `featbank.finetuning.augment`.
    valid : float
        Share of the training rows that is held out to watch, in (0, 1); 0 for none, and then the
        last weights are kept. Given rows of valid come before it.
    monitor : {"loss", "accuracy"}
        What is watched on these: the weights of the best epoch are kept.
    patience : int, optional
        Stop after so many epochs without a better one; of everything that trains, where there
        are epochs of the head alone before.
    class_weight : "balanced", mapping of class to float, or None
    label_smoothing : float
    clip_norm : float, optional
        Gradients are scaled down to this norm.
    mixed_precision : bool, optional
        Compute in bfloat16 or float16 where the device does; by default on GPUs alone.
    random_state : int
        Seed of initial weights, order, augmentation and dropout.
    """

    unfreeze: str | int | Sequence[str] = "all"
    hidden: Sequence[int] = ()
    dropout: float = 0.0
    init: str = "random"
    epochs: int = 10
    head_epochs: int = 0
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float | None = None
    head_lr: float | None = None
    backbone_lr: float = 0.1
    layer_decay: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lookahead: bool = False
    schedule: str = "cosine"
    warmup: float = 0.1
    step_epochs: int = 7
    gamma: float = 0.1
    augment: str = "light"
    valid: float = 0.1
    monitor: str = "loss"
    patience: int | None = None
    class_weight: str | Mapping[str, float] | None = None
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    mixed_precision: bool | None = None
    random_state: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        if not isinstance(self.hidden, tuple):
            raise FineTuneError(
                f"hidden is a sequence of sizes such as (256,), not {self.hidden!r}."
            )
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("augment", AUGMENTS),
            ("init", INITS),
            ("monitor", MONITORS),
        ):
            value = getattr(self, name)
            if value not in known:
                raise FineTuneError(f"there is no {name} {value!r}; {nearest(str(value), known)}")
        for name, least in (
            ("epochs", 0),
            ("head_epochs", 0),
            ("batch_size", 1),
            ("step_epochs", 1),
            ("patience", 1),
            ("random_state", 0),
        ):
            value = getattr(self, name)
            if value is None and name == "patience":
                continue
            if not _is_number(value, int) or value < least:
                raise FineTuneError(f"{name} is a whole number from {least} up, not {value!r}.")
        if self.epochs + self.head_epochs == 0:
            raise FineTuneError("epochs and head_epochs are both 0; nothing would be trained.")
        self._check_numbers()
        self._check_unfreeze()
        if any(not _is_number(n, int) or n < 1 for n in self.hidden):
            raise FineTuneError(f"hidden layers have sizes from 1 up, not {list(self.hidden)}.")
        if self.init == "probe" and self.hidden:
            raise FineTuneError(
                "a linear probe starts a head of one linear layer; leave the hidden layers out, or "
                "init."
            )
        weights = self.class_weight
        if weights not in (None, "balanced") and not (
            isinstance(weights, dict) and all(_is_number(one) for one in weights.values())
        ):
            raise FineTuneError(
                f"class_weight is 'balanced' or a weight for each class, not {weights!r}."
            )

    def _check_unfreeze(self) -> None:
        value = self.unfreeze
        if _is_number(value, int):
            if value < 1:  # type: ignore[operator]
                raise FineTuneError(
                    f"unfreeze is a number of stages from 1 up, not {value}; 'head' trains the "
                    "head alone."
                )
            return
        names = [value] if isinstance(value, str) else value
        if not (
            isinstance(names, list | tuple) and names and all(isinstance(n, str) for n in names)
        ):
            raise FineTuneError(
                f"unfreeze is 'all', 'head', a number of stages or names of modules, not {value!r}."
            )

    def _check_numbers(self) -> None:
        for name, words in (("lookahead", (True, False)), ("mixed_precision", (True, False, None))):
            value = getattr(self, name)
            if not any(value is word for word in words):
                raise FineTuneError(f"{name} is True or False, not {value!r}.")
        for name in ("dropout", "valid", "warmup", "label_smoothing"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < 1):
                raise FineTuneError(f"{name} is a share from 0 to below 1, not {value!r}.")
        for name in ("lr", "head_lr", "backbone_lr", "layer_decay", "gamma", "clip_norm"):
            value = getattr(self, name)
            if value is None and name not in ("backbone_lr", "gamma"):
                continue
            if not (_is_number(value) and math.isfinite(value) and value > 0):
                raise FineTuneError(f"{name} is a number above 0, not {value!r}.")
        for name in ("weight_decay", "momentum"):
            value = getattr(self, name)
            if not (_is_number(value) and math.isfinite(value) and value >= 0):
                raise FineTuneError(f"{name} is a number from 0 up, not {value!r}.")

    @property
    def rate(self) -> float:
        """The learning rate of the head."""
        return OPTIMIZERS[self.optimizer] if self.lr is None else self.lr

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_dict` returned, or from some of its words.

        Raises
        ------
        FineTuneError
            A word is none of the settings.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for name in data:
            if name not in known:
                raise FineTuneError(f"fine-tuning has no setting {name!r}; {nearest(name, known)}")
        try:
            return cls(**dict(data))
        except TypeError as error:
            raise FineTuneError(f"these are no settings of fine-tuning: {error}.") from error


def _plain(value: Any) -> Any:
    """Return a value as JSON will have it: numpy's numbers as Python's, classes by their names."""
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(_plain, value))
    return value


def _is_number(value: Any, kind: Any = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
