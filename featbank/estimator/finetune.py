"""The estimator that trains a network itself: `FineTuneClassifier`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from featbank.backbones.request import Request
from featbank.data.decode import read_bytes
from featbank.data.units import codes_of
from featbank.errors import BackboneError, ImageError
from featbank.finetuning.settings import FineTuneSettings

if TYPE_CHECKING:
    from featbank.backbones.module import ModuleBackbone
    from featbank.finetuning.images import Images
    from featbank.finetuning.range_test import RangeTest
    from featbank.workflows.inputs import Inputs

__all__ = ["FineTuneClassifier"]

Array = npt.NDArray[Any]

_OF_REQUEST: dict[str, Any] = {
    "weights": "DEFAULT",
    "resize": None,
    "crop": None,
    "squash": False,
    "input_size": None,
}
_SETTINGS = tuple(field.name for field in fields(FineTuneSettings))


class FineTuneClassifier(ClassifierMixin, BaseEstimator):
    """Classify images by a pretrained network that is trained on them.

    Parameters
    ----------
    model : str, Request or ModuleBackbone, default="resnet50"
        A name of ``featbank models``; a `featbank.backbones.Request`; or your own network by
        `featbank.backbones.from_module`. The last two bring their own weights and sizes.
    weights : str, default="DEFAULT"
        A torchvision enum name, a timm tag, a file, or ``"none"`` to train from scratch.
    resize, crop : int, optional
        Short side after resizing, and side of the square cut from the centre, in pixels.
    squash : bool, default=False
        Resize straight to the crop, whatever the proportions: nothing is cut off.
    input_size : int, optional
        Side of the network's input in pixels; the margin around the crop scales with it.
    unfreeze, hidden, dropout, init, epochs, head_epochs, batch_size, optimizer, lr, head_lr
        What trains, and how; see `featbank.FineTuneSettings`, as for all that follow.
    backbone_lr : float, optional
        The backbone's learning rate over the head's: by default 0.1, and 1 for a network without
        training, which has nothing to preserve.
    layer_decay, momentum, weight_decay, lookahead, schedule, warmup, step_epochs, gamma
    augment : str, default="light"
    valid : float, default=0.1
        Share of each class that is held out to watch; equal images are not parted.
    monitor, patience, class_weight, label_smoothing, clip_norm, mixed_precision
    device : {"auto", "cpu", "cuda", "mps"}, optional
    workers : int, optional
        Processes that decode images.
    max_seconds : float, optional
        Time for a fit.
    checkpoint : path, optional
        A folder that keeps the training after each epoch.
    resume : bool, default=False
        Go on from the checkpoint, if there is one.
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, order, augmentation, dropout, and of what is held out.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    history_ : list of dict
        One an epoch: loss and accuracy of training and watched images, learning rates, seconds.
    best_epoch_ : int
        Whose weights were kept.
    stopped_ : {"epochs", "patience", "time"}
    n_parameters_, n_parameters_trained_ : int
    tuned_ : TunedClassifier
        The network as plain arrays, with all that is needed to use it.

    See Also
    --------
    TransferClassifier : A head on features of a frozen network.
    featbank.finetune : Scores with intervals, on the folds of `featbank.fit`.

    Notes
    -----
    `X` is as for `TransferClassifier`: a sequence of image paths or of PIL images, or an array of
    shape (N, H, W, 3), uint8. An image that can't be read raises an `ImageError`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((8, 64, 64, 3), np.uint8)
    >>> X[4:] = 255
    >>> classifier = FineTuneClassifier(
    ...     "squeezenet1_1", weights="none", augment="none", epochs=1, valid=0, random_state=0
    ... )
    >>> classifier.fit(X, ["dark"] * 4 + ["light"] * 4).predict_proba(X).shape
    (8, 2)
    """

    def __init__(
        self,
        model: str | Request | ModuleBackbone = "resnet50",
        *,
        weights: str = "DEFAULT",
        resize: int | None = None,
        crop: int | None = None,
        squash: bool = False,
        input_size: int | None = None,
        unfreeze: str | int | Sequence[str] = "all",
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        init: str = "random",
        epochs: int = 10,
        head_epochs: int = 0,
        batch_size: int = 32,
        optimizer: str = "adamw",
        lr: float | None = None,
        head_lr: float | None = None,
        backbone_lr: float | None = None,
        layer_decay: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        lookahead: bool = False,
        schedule: str = "cosine",
        warmup: float = 0.1,
        step_epochs: int = 7,
        gamma: float = 0.1,
        augment: str = "light",
        valid: float = 0.1,
        monitor: str = "loss",
        patience: int | None = None,
        class_weight: str | Mapping[str, float] | None = None,
        label_smoothing: float = 0.0,
        clip_norm: float | None = None,
        mixed_precision: bool | None = None,
        device: str | None = None,
        workers: int | None = None,
        max_seconds: float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.model = model
        self.weights = weights
        self.resize = resize
        self.crop = crop
        self.squash = squash
        self.input_size = input_size
        self.unfreeze = unfreeze
        self.hidden = hidden
        self.dropout = dropout
        self.init = init
        self.epochs = epochs
        self.head_epochs = head_epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.head_lr = head_lr
        self.backbone_lr = backbone_lr
        self.layer_decay = layer_decay
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.lookahead = lookahead
        self.schedule = schedule
        self.warmup = warmup
        self.step_epochs = step_epochs
        self.gamma = gamma
        self.augment = augment
        self.valid = valid
        self.monitor = monitor
        self.patience = patience
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.mixed_precision = mixed_precision
        self.device = device
        self.workers = workers
        self.max_seconds = max_seconds
        self.checkpoint = checkpoint
        self.resume = resume
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.non_deterministic = self.random_state is None
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Train the network.

        Parameters
        ----------
        X : sequence of paths or images, or ndarray
            See Notes of the class.
        y : array-like of shape (n_samples,)
            Classes.

        Returns
        -------
        self

        Raises
        ------
        DataError
            `X` is none of these.
        ImageError
            An image can't be read.
        BackboneError
            The network or its weights can't be had.
        FineTuneError
            Settings contradict one another, the network or the data; or the training diverged.
        """
        from featbank.backbones.trained_on import TrainedOn
        from featbank.finetuning.trainer import train
        from featbank.finetuning.tuned import TunedClassifier
        from featbank.workflows.seen import trained_on_of

        job = self._job(X, y)
        rows, watched = job.held_out()
        names = [str(label) for label in job.classes]
        trained = train(
            job.request,
            job.images,
            job.codes,
            rows,
            watched,
            n_classes=len(names),
            settings=job.settings,
            class_names=names,
            units=job.units,
            device=self.device or "auto",
            workers=self.workers,
            checkpoint=None if self.checkpoint is None else os.fspath(self.checkpoint),
            resume=self.resume,
            max_seconds=self.max_seconds,
        )
        self.classes_ = job.classes
        self.history_ = trained.history
        self.best_epoch_ = trained.best_epoch
        self.stopped_ = trained.stopped
        self.n_parameters_ = trained.parameters
        self.n_parameters_trained_ = trained.trainable
        self.tuned_ = TunedClassifier.of(
            job.request,
            trained.network,
            names,
            job.settings,
            {
                "images": len(job.codes),
                "best_epoch": trained.best_epoch,
                "trainable": trained.trainable,
                "parameters": trained.parameters,
                "history": trained.history,
            },
            TrainedOn.of(job.digests, trained_on_of(None, job.base)),
        )
        return self

    def predict(self, X: Any) -> Array:
        """Return the class of each image, shape (n_samples,)."""
        probability = self.predict_proba(X)
        return self.classes_[probability.argmax(axis=1)]

    def predict_proba(self, X: Any) -> Array:
        """Return probabilities of shape (n_samples, n_classes)."""
        from featbank.workflows.inputs import read_inputs

        check_is_fitted(self)
        images = _images(read_inputs(X), self.tuned_.request)
        return self.tuned_.predict_proba(images, device=self.device or "auto", workers=self.workers)

    def range_test(
        self, X: Any, y: Any, *, low: float = 1e-6, high: float = 1.0, steps: int = 100
    ) -> RangeTest:
        """Run the learning-rate range test on what `fit` would learn from; nothing is fitted.

        Parameters
        ----------
        X, y
            As `fit` takes them.
        low, high : float
            The first rate of the head, and the last.
        steps : int

        Returns
        -------
        RangeTest
            Its `suggestion` is one for `lr`.
        """
        from featbank.finetuning.range_test import find_rate

        job = self._job(X, y)
        rows, _ = job.held_out()
        return find_rate(
            job.request,
            job.images,
            job.codes,
            rows,
            n_classes=len(job.classes),
            settings=job.settings,
            class_names=[str(label) for label in job.classes],
            units=job.units,
            device=self.device or "auto",
            workers=self.workers,
            low=low,
            high=high,
            steps=steps,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted network to a ``.safetensors`` file, as ``featbank finetune`` does."""
        check_is_fitted(self)
        self.tuned_.save(path)

    def _job(self, X: Any, y: Any) -> _Job:
        """Check what was given before any image is read."""
        from featbank.workflows.finetune import settings_for
        from featbank.workflows.inputs import read_inputs

        if y is None:
            raise ValueError(
                "this FineTuneClassifier requires y to be passed, but the target y is None"
            )
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        inputs = read_inputs(X)
        check_consistent_length(inputs.items, labels)
        words = {name: getattr(self, name) for name in _SETTINGS if name != "random_state"}
        if self.backbone_lr is None:
            del words["backbone_lr"]
        seed = self._seed()
        request = self._request(seed)
        settings = settings_for(request, **words, random_state=seed)
        classes, codes = np.unique(labels, return_inverse=True)
        images, digests = _read(inputs, request)
        own = digests if inputs.files else None  # else nobody knows the bytes of files of these
        return _Job(request, settings, images, codes_of(digests), classes, codes, own)

    def _request(self, seed: int) -> Request | ModuleBackbone:
        words = {name: getattr(self, name) for name in _OF_REQUEST}
        if isinstance(self.model, str):
            request = Request(self.model, **words, seed=seed)
            return request if request.file is None else replace(request, weights=request.file)
        for name, value in words.items():
            if value != _OF_REQUEST[name]:
                raise BackboneError(
                    f"{name} {value!r} can't be given beside a {type(self.model).__name__}: it "
                    "brings its own."
                )
        return self.model

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))


@dataclass(frozen=True)
class _Job:
    """What is to be trained on what; rows of equal `units` are of equal images."""

    request: Request | ModuleBackbone
    settings: FineTuneSettings
    images: Images
    units: Array
    classes: Array
    codes: Array
    digests: Array | None

    @property
    def base(self) -> Request | None:
        """What the training begins with, where words find it."""
        return self.request if isinstance(self.request, Request) else None

    def held_out(self) -> tuple[Array, Array]:
        """Return the rows to learn from, and those to watch."""
        from featbank.finetuning.trainer import hold_out_valid

        settings = self.settings
        rows = np.arange(len(self.codes))
        return hold_out_valid(self.codes, self.units, rows, settings.valid, settings.random_state)


def _read(inputs: Inputs, request: Request | ModuleBackbone) -> tuple[Images, Array]:
    """Return images, and the SHA-256 of each one's bytes or pixels, shape (n, 32), uint8."""
    images = _images(inputs, request)
    digests = np.empty((len(inputs), 32), np.uint8)
    for row in range(len(inputs)):
        if inputs.files:
            path = inputs.items[row]
            try:
                digest = hashlib.sha256(read_bytes(path))
            except ImageError as error:
                raise ImageError(f"{os.fsdecode(path)}: {error}") from error
        else:
            image = images.read(row)
            digest = hashlib.sha256(repr(image.size).encode() + image.tobytes())
        digests[row] = np.frombuffer(digest.digest(), np.uint8)
    return _images(inputs, request, digests), digests


def _images(
    inputs: Inputs, request: Request | ModuleBackbone, digests: Array | None = None
) -> Images:
    from featbank.finetuning.images import Images

    if inputs.files:
        return Images.of_files(inputs.items, request.decode, digests=digests)
    return Images.of_arrays(inputs.items)
