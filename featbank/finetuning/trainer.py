"""The trainer: fine-tunes a network on rows of images, on skorch's loop and callbacks.

What is drawn at random follows from (random_state, epoch, row) and nothing else. On a CPU, with
the same number of threads, a training that was killed and goes on from its checkpoint ends with the
same bytes as one that ran through, with any number of decoding processes.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featbank.backbones.device import pick_device
from featbank.backbones.module import ModuleBackbone
from featbank.backbones.recipe import Recipe
from featbank.backbones.request import Request
from featbank.errors import FineTuneError, nearest
from featbank.evaluation.folds import hold_out
from featbank.finetuning.checkpoint import Checkpoint, Course
from featbank.finetuning.images import Images
from featbank.finetuning.loading import worker_count
from featbank.finetuning.loop import EpochProgress, Job, Net, Over
from featbank.finetuning.network import TunableNetwork, tunable
from featbank.finetuning.optimizers import make_optimizer, parameter_groups
from featbank.finetuning.prediction import predict_proba
from featbank.finetuning.probe import probe
from featbank.finetuning.settings import FineTuneSettings

__all__ = ["EpochProgress", "Trained", "class_weights", "hold_out_valid", "predict_proba", "train"]

Array = npt.NDArray[Any]
Int = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Trained:
    """A network that was fine-tuned, and how it went.

    Attributes
    ----------
    network : TunableNetwork
        In evaluation mode, with the weights of `best_epoch`.
    history : list of dict
        One an epoch: ``epoch`` (from 1), ``phase`` ("head" or "all"), ``train_loss``,
        ``train_accuracy``, ``valid_loss``, ``valid_accuracy`` (None where nothing was watched),
        ``rates`` (by "head", "stage 1", ...; at the end of the epoch), ``seconds``, ``complete``
        (False where the time ran out within the epoch). Training figures are means over the epoch
        while the weights changed, on augmented images.
    best_epoch : int
        The epoch whose weights these are, or the last whole one before them, where nothing was
        watched and the time ran out within an epoch; 0 where no epoch was finished.
    seconds : float
        Of training, over all calls that it went on in.
    trainable, parameters : int
        Numbers that trained, of all.
    stopped : {"epochs", "patience", "time"}
    settings : FineTuneSettings
    notes : tuple of str
        What a reader of the scores should know.
    """

    network: TunableNetwork
    history: list[dict[str, Any]]
    best_epoch: int
    seconds: float
    trainable: int
    parameters: int
    stopped: str
    settings: FineTuneSettings
    notes: tuple[str, ...] = ()


def train(
    request: Request | ModuleBackbone,
    images: Images,
    y: Array,
    train: Array,
    valid: Array,
    *,
    n_classes: int,
    settings: FineTuneSettings,
    class_names: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    units: Array | None = None,
    device: str = "auto",
    workers: int | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    max_seconds: float | None = None,
    progress: Callable[[EpochProgress], None] | None = None,
) -> Trained:
    """Fine-tune a network.

    Parameters
    ----------
    request : Request or ModuleBackbone
    images : Images
    y : ndarray of shape (n,), int
        Codes 0 to K - 1.
    train, valid : ndarray of int
        Rows that are learned from, and rows that are watched (there may be none).
    n_classes : int
        K.
    settings : FineTuneSettings
    class_names : sequence of str, optional
        For weights of classes and for messages.
    recipe : Recipe, optional
        What `featbank.backbones.resolve` returned for the request.
    units : ndarray of shape (n,), optional
        What belongs together when C of the probe is chosen; by default each row is on its own.
    device : str
    workers : int, optional
        Processes that decode; by default none on a CPU, and up to 8 beside a GPU.
    checkpoint : path, optional
        Folder that keeps this training after each epoch.
    resume : bool
        Go on from the checkpoint, if there is one.
    max_seconds : float, optional
        Of this call; it ends with the step that passes it, or before an epoch whose end would be
        too late to be watched.
    progress : callable, optional
        Called after each step and after each watched epoch.

    Returns
    -------
    Trained

    Raises
    ------
    FineTuneError
        It can't be trained as asked, the loss is not finite, or the checkpoint is of another
        training.
    ImageError
        An image can't be read.
    BackboneError
        The network or its weights can't be had.
    """
    began = time.monotonic()
    y, train, valid = np.asarray(y), np.asarray(train, np.intp), np.asarray(valid, np.intp)
    names = [str(c) for c in class_names] if class_names is not None else None
    _check(images, y, train, valid, n_classes, names)
    if max_seconds is not None and not max_seconds > 0:
        raise FineTuneError(f"max_seconds is a number above 0, not {max_seconds!r}.")
    device = pick_device(device)
    weights = class_weights(settings, y[train], n_classes, names)
    network = tunable(request, n_classes, settings, recipe)
    keeper = None
    if checkpoint is not None:
        identity = _identity(network, images, y, train, valid, n_classes, names, settings)
        keeper = Checkpoint(Path(checkpoint), identity)
    state = keeper.begin(resume=resume) if keeper is not None else None
    network.to(device).freeze(settings.unfreeze)
    job = Job(
        network=network,
        images=images,
        y=y,
        train=train,
        valid=valid,
        settings=settings,
        class_weights=weights,
        workers=worker_count(workers, device, len(train)),
        keeper=keeper,
        began=began,
        deadline=None if max_seconds is None else began + max_seconds,
        progress=progress,
        changing=_changing(network),
    )
    units = np.arange(len(y)) if units is None else np.asarray(units)
    return _run(
        job,
        state,
        lambda: probe(
            network,
            images,
            y,
            train,
            units=units,
            class_weights=weights,
            settings=settings,
            workers=job.workers,
        ),
    )


def hold_out_valid(
    y: Array, units: Array, train: Array, share: float, seed: int
) -> tuple[Int, Int]:
    """Part training rows into those that are learned from and those that are watched.

    Parameters
    ----------
    y, units : ndarray of shape (n,)
        Codes, and what must not be parted.
    train : ndarray of int
        Rows to part.
    share : float
        About this share of each class is watched; 0 for none.
    seed : int

    Returns
    -------
    train, valid : ndarray of int
        Sorted. Where a class has one unit only, it is learned from.

    Examples
    --------
    >>> y = np.repeat([0, 1], 10)
    >>> rows, watched = hold_out_valid(y, np.arange(20), np.arange(20), 0.2, seed=0)
    >>> len(rows), np.bincount(y[watched]).tolist()
    (16, [2, 2])
    """
    train = np.asarray(train, np.intp)
    if share == 0 or len(train) == 0:
        return np.sort(train), np.empty(0, np.intp)
    codes = np.unique(np.asarray(y)[train], return_inverse=True)[1]
    own = np.unique(np.asarray(units)[train], return_inverse=True)[1]
    held = hold_out(codes, own, share, np.random.default_rng(seed))
    held &= np.bincount(codes)[codes] > 1
    return np.sort(train[~held]), np.sort(train[held])


def class_weights(
    settings: FineTuneSettings, y: Array, n_classes: int, names: Sequence[str] | None
) -> npt.NDArray[np.float32] | None:
    """Return the weight of each class in the loss, shape (K,); None where all count the same.

    Raises
    ------
    FineTuneError
        A weight is given for something that is no class, or is not a positive number.
    """
    given = settings.class_weight
    if given is None:
        return None
    counts = np.bincount(y, minlength=n_classes)
    if given == "balanced":
        present = np.count_nonzero(counts)
        return (len(y) / (present * np.maximum(counts, 1))).astype(np.float32)
    assert isinstance(given, Mapping)
    known = list(names) if names is not None else [str(c) for c in range(n_classes)]
    weights = np.ones(n_classes, np.float32)
    for name, weight in given.items():
        if str(name) not in known:
            raise FineTuneError(
                f"a weight is given for the class {str(name)!r}, which there is none of; "
                f"{nearest(str(name), known)}"
            )
        if not (math.isfinite(weight) and weight > 0):
            raise FineTuneError(f"the weight of class {name} is a number above 0, not {weight!r}.")
        weights[known.index(str(name))] = weight
    return weights


def _check(
    images: Images, y: Array, train: Int, valid: Int, n_classes: int, names: list[str] | None
) -> None:
    if y.shape != (len(images),):
        raise FineTuneError(f"there are {len(images)} images and y has shape {y.shape}.")
    if names is not None and len(names) != n_classes:
        raise FineTuneError(f"there are {n_classes} classes and {len(names)} names of classes.")
    if len(train) == 0:
        raise FineTuneError("there are no images to train on.")
    both = np.intersect1d(train, valid)
    if len(both):
        raise FineTuneError(f"row {both[0]} is to be learned from and watched; give it to one.")
    rows = np.concatenate([train, valid])
    if rows.min() < 0 or rows.max() >= len(y):
        raise FineTuneError(f"rows are numbers from 0 to {len(y) - 1}, not {rows.max()}.")
    if y[rows].min() < 0 or y[rows].max() >= n_classes:
        raise FineTuneError(f"y holds codes from 0 to {n_classes - 1} for {n_classes} classes.")
    if len(np.unique(y[train])) < 2:
        name = repr(names[y[train[0]]]) if names else f"number {y[train[0]]}"
        raise FineTuneError(
            f"all {len(train)} images to train on are of one class, {name}; a classifier needs at "
            "least two."
        )


def _identity(
    network: TunableNetwork,
    images: Images,
    y: Array,
    train: Int,
    valid: Int,
    n_classes: int,
    names: list[str] | None,
    settings: FineTuneSettings,
) -> dict[str, Any]:
    """Return all that a training follows from; what differs is named to the user by its key."""
    if network.recipe is None:
        raise FineTuneError(
            f"{network.name} has no version, so a training of it can't be kept; give "
            "from_module(..., version='1')."
        )
    return {
        **settings.to_dict(),
        "recipe": network.recipe.to_dict(),
        "number of classes": n_classes,
        "classes": names,
        "number of training images": len(train),
        "number of watched images": len(valid),
        "training images": images.digest(train),
        "watched images": images.digest(valid),
        "labels": hashlib.sha256(
            np.concatenate([y[train], y[valid]]).astype("<i8").tobytes()
        ).hexdigest(),
    }


def _run(job: Job, state: dict[str, Any] | None, probe: Callable[[], None]) -> Trained:
    """Train to the end, from the state of a checkpoint on if there is one."""
    network, settings, course = job.network, job.settings, job.course
    trainable = network.trainable
    if state is not None:
        assert job.keeper is not None
        course = job.course = Course(**state["course"])
        job.before = course.seconds
        job.load(job.keeper.load(state, "weights"))
        if len(job.valid):
            job.best_state = job.keeper.load(state, "best")
        if state["threads"] != torch.get_num_threads():
            job.notes.append(
                f"this training was begun with {state['threads']} threads and goes on with "
                f"{torch.get_num_threads()}: its last digits are others."
            )
    elif settings.init == "probe":
        probe()
    if course.stopped is None:
        try:
            _phases(job, state)
            course.stopped = "epochs"
        except Over as over:
            course.stopped = str(over)
        course.seconds = job.before + time.monotonic() - job.began
        if job.keeper is not None and course.stopped != "time":
            job.keeper.finish(course.stopped)
    if job.best_state is not None:
        job.load(job.best_state)
    network.module.requires_grad_(False)
    network.eval()
    return Trained(
        network=network,
        history=course.history,
        best_epoch=course.best_epoch,
        seconds=course.seconds,
        trainable=trainable,
        parameters=network.parameters,
        stopped=course.stopped,
        settings=settings,
        notes=tuple(job.notes),
    )


def _phases(job: Job, state: dict[str, Any] | None) -> None:
    """Run what is left of the epochs of the head alone, then of everything that trains."""
    settings, done = job.settings, job.course.epoch
    plan = (
        ("head", "head", settings.head_epochs, settings.head_lr or settings.rate, 0),
        ("all", settings.unfreeze, settings.epochs, settings.rate, settings.head_epochs),
    )
    for phase, unfreeze, epochs, rate, start in plan:
        if done >= start + epochs:
            continue
        stages = job.network.freeze(unfreeze)
        groups = parameter_groups(
            job.network.head, [stage.parameters for stage in stages], settings, rate=rate
        )
        net = Net(job, phase, make_optimizer(groups, settings), start, epochs)
        if state is not None and done > start:
            net.restore(state)
        net.run(start + epochs - max(done, start))


def _changing(network: TunableNetwork) -> list[str]:
    """Return the names of tensors that a training as it is frozen now can change."""
    found = []
    for path, module in network.module.named_modules():
        own = dict(module.named_parameters(recurse=False))
        names = [name for name, p in own.items() if p.requires_grad]
        if names or not own:
            names += [name for name, _ in module.named_buffers(recurse=False)]
        found += [f"{path}.{name}" if path else name for name in names]
    known = network.module.state_dict()
    return [name for name in found if name in known]
