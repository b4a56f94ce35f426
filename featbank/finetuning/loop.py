"""The loop: skorch's, over the epochs of one phase, with callbacks for everything around a step."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, PassthroughScoring
from skorch.helper import predefined_split
from torch import Tensor
from torch.nn.functional import cross_entropy

from featbank.errors import FineTuneError
from featbank.finetuning.augment import augmentation
from featbank.finetuning.checkpoint import Checkpoint, Course
from featbank.finetuning.images import Images
from featbank.finetuning.loading import Epochs, Rows, batches_of, loader, seed_of
from featbank.finetuning.network import TunableNetwork
from featbank.finetuning.prediction import float32, readable
from featbank.finetuning.schedules import factor
from featbank.finetuning.settings import FineTuneSettings

__all__ = ["EpochProgress", "Job", "Net", "Over"]

Array = npt.NDArray[Any]
Int = npt.NDArray[np.intp]

_MIX = 1  # tells the seed of a batch's mixing from that of an image


@dataclass(frozen=True)
class EpochProgress:
    """How far an epoch is.

    Attributes
    ----------
    epoch, epochs : int
        From 1; of all phases together.
    phase : {"head", "all"}
    step, steps : int
        From 1; of this epoch.
    loss, accuracy : float
        On the training rows of this epoch so far.
    images_per_second : float
        Of this epoch so far.
    valid_loss, valid_accuracy : float or None
        At the end of an epoch that was watched.
    """

    epoch: int
    epochs: int
    phase: str
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    valid_loss: float | None = None
    valid_accuracy: float | None = None


class Over(Exception):
    """The training is over before its last epoch."""


@dataclass(eq=False)
class Job:
    """One training: what it is of, how far it has come, and when it ends.

    Attributes
    ----------
    network : TunableNetwork
        On its device.
    images : Images
    y : ndarray of shape (n,), int
    train, valid : ndarray of int
    settings : FineTuneSettings
    class_weights : ndarray of shape (K,), float32, or None
    workers : int
    keeper : Checkpoint or None
    began, deadline : float
        Of this call, by `time.monotonic`; no deadline is None.
    progress : callable or None
    changing : list of str
        Names of the tensors that it can change.
    course : Course
    before : float
        Seconds of earlier calls.
    best_state : dict of str to Tensor, or None
        These tensors after the best watched epoch.
    notes : list of str
    """

    network: TunableNetwork
    images: Images
    y: Array
    train: Int
    valid: Int
    settings: FineTuneSettings
    class_weights: npt.NDArray[np.float32] | None
    workers: int
    keeper: Checkpoint | None
    began: float
    deadline: float | None
    progress: Callable[[EpochProgress], None] | None
    changing: list[str]
    course: Course = field(default_factory=Course)
    before: float = 0.0
    best_state: dict[str, Tensor] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Epochs of all phases, as planned."""
        return self.settings.head_epochs + self.settings.epochs

    def current(self) -> dict[str, Tensor]:
        """Return a copy of what this training can change, on the CPU."""
        own = self.network.module.state_dict()
        return {
            name: own[name].detach().cpu().clone(memory_format=torch.contiguous_format)
            for name in self.changing
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put such a copy back.

        Raises
        ------
        FineTuneError
            A tensor is missing, or of another shape.
        """
        own = self.network.module.state_dict()
        for name in self.changing:
            if name not in tensors or tensors[name].shape != own[name].shape:
                raise FineTuneError(f"the checkpoint does not fit {self.network.name}: {name}.")
            own[name].copy_(tensors[name])


class Net(NeuralNet):
    """skorch's loop over the epochs of one phase, with this trainer's steps."""

    def __init__(self, job: Job, phase: str, optimizer: Any, start: int, epochs: int) -> None:
        settings, device = job.settings, job.network.device
        weight = job.class_weights
        self.job = job
        self.phase = phase
        self.start = start
        self.phase_epochs = epochs
        self.base = [group["lr"] for group in optimizer.param_groups]
        self.half = _half(settings, device)
        self.scaler = torch.amp.GradScaler(
            device.partition(":")[0], enabled=self.half is torch.float16
        )
        augment = augmentation(
            settings.augment, job.network.preprocess, n_classes=job.network.n_classes
        )
        self.mix = augment.batch
        self.order = Epochs(job.train, settings.batch_size, settings.random_state)
        self.logits: list[Tensor] = []
        plain = augmentation("none", job.network.preprocess, n_classes=job.network.n_classes)
        watched = Rows(job.images, job.y, plain.image)
        super().__init__(
            job.network.module,
            torch.nn.CrossEntropyLoss(
                weight=None if weight is None else torch.from_numpy(weight),
                label_smoothing=settings.label_smoothing,
            ),
            optimizer=lambda *_, **__: optimizer,
            iterator_train=lambda data, **_: loader(data, self.order, workers=job.workers),
            iterator_valid=lambda data, **_: loader(
                data,
                batches_of(job.valid, settings.batch_size),
                workers=job.workers,
            ),
            dataset=Rows(job.images, job.y, augment.image),
            train_split=predefined_split(watched) if len(job.valid) else None,
            callbacks=[
                ("train_loss", PassthroughScoring("train_loss", on_train=True)),
                ("train_accuracy", PassthroughScoring("train_accuracy", on_train=True)),
                ("pace", _Pace()),
                ("judge", _Judge()),
                ("keep", _Keep()),
                ("patience", _Patience()),
            ],
            device=device,
            verbose=0,
        )
        self.initialize()

    def get_default_callbacks(self) -> list[Any]:
        """Return none: all that are wanted are named."""
        return []

    def run(self, epochs: int) -> None:
        """Train for so many epochs; random numbers outside are left as they were."""
        cuda = [self.device] if str(self.device).startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda), float32(str(self.device)):
            # Not fit(): it would take an interrupt for the end of the training.
            self.fit_loop(self.dataset, epochs=epochs)

    def restore(self, state: dict[str, Any]) -> None:
        """Put the optimizer into the state after the last whole epoch."""
        keeper = self.job.keeper
        assert keeper is not None
        tensors = keeper.load(state, "optimizer")
        parameters = [p for group in self.optimizer_.param_groups for p in group["params"]]
        kept: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, key = name.partition("/")
            like = parameters[int(number)]
            # In the parameter's own layout, for sums go by the order of memory.
            same = (
                torch.empty_like(like) if tensor.shape == like.shape else torch.empty_like(tensor)
            )
            kept.setdefault(int(number), {})[key] = same.copy_(tensor)
        groups = self.optimizer_.state_dict()["param_groups"]
        for group, saved in zip(groups, state["groups"], strict=True):
            group.update({key: saved[key] for key in saved if key != "lr"})
        self.optimizer_.load_state_dict({"state": kept, "param_groups": groups})
        self.scaler.load_state_dict(state["scaler"])

    def train_step(self, batch: Any, **_: Any) -> dict[str, Any]:
        """Compute the loss of a batch and move the weights."""
        job, network = self.job, self.job.network
        pixels, y = readable(batch)
        y = y.to(network.device)
        inputs, targets = self.mix(network.inputs(pixels), y, self.generator)
        self.optimizer_.zero_grad(set_to_none=True)
        with self.autocast():
            logits = network.module(inputs)
        loss = self.criterion_(logits.float(), targets)
        if not math.isfinite(loss.item()):
            raise self.diverged("the loss")
        self.scaler.scale(loss).backward()
        if job.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer_)
            torch.nn.utils.clip_grad_norm_(
                (p for p in network.module.parameters() if p.requires_grad),
                job.settings.clip_norm,
            )
        self.scaler.step(self.optimizer_)
        self.scaler.update()
        right = (logits.detach().argmax(1) == y).float().mean()
        self.history.record_batch("train_accuracy", float(right))
        return {"loss": loss.detach(), "y_pred": logits.detach()}

    def validation_step(self, batch: Any, **_: Any) -> dict[str, Any]:
        """Compute the logits of watched rows; they are judged together at the end of the epoch."""
        pixels, y = readable(batch)
        network = self.job.network
        network.eval()
        with torch.inference_mode():
            logits = network.module(network.inputs(pixels)).float()
        self.logits.append(logits.cpu())
        return {"loss": cross_entropy(logits, y.to(logits.device)), "y_pred": logits}

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of mixed precision, where there is any."""
        if self.half is None:
            return contextlib.nullcontext()
        return torch.autocast(self.job.network.device.partition(":")[0], dtype=self.half)

    def diverged(self, what: str) -> FineTuneError:
        """Return the error of a training whose numbers are not finite."""
        course = self.job.course
        kept = ""
        if self.job.keeper is not None and course.epoch:
            kept = f" The checkpoint of epoch {course.epoch} is as it was."
        rate = max(group["lr"] for group in self.optimizer_.param_groups)
        return FineTuneError(
            f"{what} is no longer finite in epoch {course.epoch + 1}, at a learning rate "
            f"of {rate:.2g}; give a lower lr, or clip_norm=1.{kept}"
        )

    def rates(self) -> dict[str, float]:
        """Return the learning rates, by the names of groups."""
        return {group["name"]: float(group["lr"]) for group in self.optimizer_.param_groups}


def _half(settings: FineTuneSettings, device: str) -> torch.dtype | None:
    """Return what mixed precision computes in; None where everything is float32."""
    cuda = device.startswith("cuda")
    if not (cuda if settings.mixed_precision is None else settings.mixed_precision):
        return None
    if cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


class _Pace(Callback):
    """Seeds an epoch, sets the rates of a step, reports it, and ends the training in time."""

    def on_epoch_begin(self, net: Net, **_: Any) -> None:
        job = net.job
        net.order.epoch = job.course.epoch
        seed = seed_of(job.settings.random_state, job.course.epoch)
        torch.default_generator.manual_seed(seed)
        if str(net.device).startswith("cuda"):
            torch.cuda.manual_seed(seed)
        net.generator = torch.Generator().manual_seed(seed_of(seed, _MIX))
        net.logits = []
        self.step = self.seen = 0
        self.loss = self.right = 0.0
        job.network.train()
        self.began = time.monotonic()

    def on_batch_begin(self, net: Net, *, training: bool, **_: Any) -> None:
        if not training:
            return
        steps = len(net.order)
        at = (net.job.course.epoch - net.start) * steps + self.step
        share = factor(net.job.settings, at, steps, net.phase_epochs)
        for group, base in zip(net.optimizer_.param_groups, net.base, strict=True):
            group["lr"] = base * share

    def on_batch_end(self, net: Net, *, batch: Any, training: bool, **_: Any) -> None:
        if not training:
            return
        self.step += 1
        n = len(batch[0])
        self.seen += n
        row = net.history[-1, "batches", -1]
        self.loss += n * row["train_loss"]
        self.right += n * row["train_accuracy"]
        self.report(net)
        job = net.job
        now = time.monotonic()
        if job.deadline is None:
            return
        if self.step == min(3, len(net.order)) and not job.notes:
            self.foresee(net, (now - self.began) / self.step)
        if now > job.deadline and self.step < len(net.order):
            job.course.history.append(
                _record(net, self.loss / self.seen, self.right / self.seen, complete=False)
            )
            raise Over("time")

    def report(self, net: Net, **watched: float) -> None:
        job = net.job
        if job.progress is None:
            return
        job.progress(
            EpochProgress(
                epoch=job.course.epoch + 1,
                epochs=job.epochs,
                phase=net.phase,
                step=self.step,
                steps=len(net.order),
                loss=self.loss / self.seen,
                accuracy=self.right / self.seen,
                images_per_second=self.seen / max(time.monotonic() - self.began, 1e-9),
                **watched,
            )
        )

    def foresee(self, net: Net, step_seconds: float) -> None:
        """Note that the time is too short, as soon as the first steps show it."""
        job = net.job
        assert job.deadline is not None
        left = max(0.0, job.deadline - self.began)
        planned = job.epochs - job.course.epoch
        if left < planned * step_seconds * len(net.order):
            job.notes.append(
                f"the time is too short for all {planned} epochs, which the learning rates are "
                "planned for; give fewer epochs or more time."
            )


class _Judge(Callback):
    """Writes the history of an epoch, and keeps the weights of the best."""

    def on_epoch_end(self, net: Net, **_: Any) -> None:
        job = net.job
        course = job.course
        last = net.history[-1]
        record = _record(net, last["train_loss"], last["train_accuracy"], complete=True)
        if not all(p.isfinite().all() for p in job.network.module.parameters() if p.requires_grad):
            raise net.diverged("a weight")
        if net.logits:
            logits, y = torch.cat(net.logits), torch.from_numpy(job.y[job.valid]).long()
            weight = None if job.class_weights is None else torch.from_numpy(job.class_weights)
            record["valid_loss"] = float(cross_entropy(logits, y, weight))
            record["valid_accuracy"] = float((logits.argmax(1) == y).float().mean())
            if not math.isfinite(record["valid_loss"]):
                raise net.diverged("the loss on the watched images")
            dict(net.callbacks_)["pace"].report(
                net, valid_loss=record["valid_loss"], valid_accuracy=record["valid_accuracy"]
            )
        course.history.append(record)
        course.epoch += 1
        if not net.logits:
            course.best_epoch = course.epoch
            return
        value = record[f"valid_{job.settings.monitor}"]
        worse = -1 if job.settings.monitor == "accuracy" else 1
        if course.best is None or worse * value < worse * course.best:
            course.best, course.best_epoch = value, course.epoch
            job.best_state = job.current()


def _record(net: Net, loss: float, accuracy: float, *, complete: bool) -> dict[str, Any]:
    """Return the line of an epoch in the history, without what was watched."""
    return {
        "epoch": net.job.course.epoch + 1,
        "phase": net.phase,
        "train_loss": float(loss),
        "train_accuracy": float(accuracy),
        "valid_loss": None,
        "valid_accuracy": None,
        "rates": net.rates(),
        "seconds": time.monotonic() - dict(net.callbacks_)["pace"].began,
        "complete": complete,
    }


class _Keep(Callback):
    """Writes the checkpoint of an epoch."""

    def on_epoch_end(self, net: Net, **_: Any) -> None:
        job = net.job
        if job.keeper is None:
            return
        job.course.seconds = job.before + time.monotonic() - job.began
        state = net.optimizer_.state_dict()
        tensors = {
            f"{number}/{key}": torch.as_tensor(value).detach().cpu().contiguous()
            for number, entry in state["state"].items()
            for key, value in entry.items()
            if value is not None
        }
        groups = [
            {key: value for key, value in group.items() if isinstance(value, int | float)}
            for group in state["param_groups"]
        ]
        job.keeper.save(
            job.course,
            weights=job.current(),
            optimizer=tensors,
            groups=groups,
            scaler=net.scaler.state_dict(),
            threads=torch.get_num_threads(),
        )


class _Patience(Callback):
    """Ends the training when it gets no better, or when no further epoch fits into the time."""

    def on_epoch_end(self, net: Net, **_: Any) -> None:
        job = net.job
        course, settings = job.course, job.settings
        last = course.epoch == job.epochs
        patience = settings.patience
        if net.phase == "head" and settings.epochs:
            patience = None  # what is unfrozen next has not had its turn
        waited = course.epoch - max(course.best_epoch, net.start)
        if len(job.valid) and patience is not None and waited >= patience:
            raise Over("patience")
        if job.deadline is None or last:
            return
        left = job.deadline - time.monotonic()
        # What comes after the best watched epoch is thrown away, so a part of one is in vain.
        needed = course.history[-1]["seconds"] if len(job.valid) else 0.0
        if left < needed or left <= 0:
            raise Over("time")
