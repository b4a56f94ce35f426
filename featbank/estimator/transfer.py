"""The estimators on features of frozen networks: `TransferClassifier` and `FeatureExtractor`.

Neither keeps a network or an open file: a backbone is found again by its words whenever features
are lacking, and features lie in a bank. So clones, folds and worker processes share them, and a
fitted estimator pickles small.
"""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_feature_names_in,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from featbank.errors import BackboneError, EvaluationError, WeightsMismatch
from featbank.heads.registry import head_name, make_head
from featbank.heads.weights import takes_weights
from featbank.workflows.headfit import plan_head_fit

if TYPE_CHECKING:
    from featbank.backbones.module import ModuleBackbone
    from featbank.backbones.recipe import Recipe
    from featbank.backbones.request import Request
    from featbank.bank.bank import Bank
    from featbank.workflows.extract import Model
    from featbank.workflows.inputs import Inputs

__all__ = ["FeatureExtractor", "TransferClassifier"]

Array = npt.NDArray[Any]
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _if_head_has(method: str) -> Callable[[_Method], _Method]:
    """Make a method that is there only where the head, fitted or not, has it."""

    def check(classifier: TransferClassifier) -> bool:
        fitted = hasattr(classifier, "head_")
        head = classifier.head_ if fitted else make_head(classifier.head)
        if not hasattr(head, method):
            raise AttributeError(
                f"the head {head_name(classifier.head)} has no {method}; take another head, or "
                "give head=CalibratedClassifierCV(...) around it."
            )
        return True

    decorator: Callable[[_Method], _Method] = available_if(check)
    return decorator


class _WeightsIfTaken:
    """A `fit` that shows `sample_weight` in its signature only where the head takes weights.

    scikit-learn's meta-estimators look at the signature (`has_fit_parameter`): bagging draws rows
    where there are no weights to give, and calibration leaves weights out.
    """

    def __init__(self, fit: Callable[..., Any]) -> None:
        self._fit = fit
        self._without = functools.wraps(fit)(lambda *args, **words: fit(*args, **words))
        signature = inspect.signature(fit)
        kept = [p for name, p in signature.parameters.items() if name != "sample_weight"]
        self._without.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]

    def __get__(self, classifier: Any, owner: type | None = None) -> Any:
        """Return the method of an instance; of the class, the function with all parameters."""
        if classifier is None:
            return self._fit
        taken = takes_weights(classifier.head)
        return MethodType(self._fit if taken else self._without, classifier)


def _weights_if_taken(fit: _Method) -> _Method:
    return cast("_Method", _WeightsIfTaken(fit))


class _OnImages(BaseEstimator):
    """What both estimators do with `X`: images to features, or features as they are."""

    model: str | Request | ModuleBackbone
    bank: str | os.PathLike[str] | Bank | None
    layers: str | Sequence[str] | None
    weights: str
    device: str | None
    workers: int | None
    batch_size: int | None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if not self._precomputed():
            tags.input_tags.one_d_array = True
            tags.input_tags.two_d_array = False
            tags.input_tags.string = True
        return tags

    def _precomputed(self) -> bool:
        return isinstance(self.model, str) and self.model == "precomputed"

    def _open(self) -> Model:
        from featbank.workflows.extract import open_model

        # What is no name brings its own weights; open_model says so where others were asked for.
        named = isinstance(self.model, str) or self.weights != "DEFAULT"
        return open_model(self.model, **({"weights": self.weights} if named else {}))

    def _embed(self, inputs: Inputs, model: Model) -> Array:
        from featbank.backbones import cache_dir
        from featbank.bank.bank import Bank
        from featbank.workflows.extract import parse_columns, run_settings

        bank = self.bank.path if isinstance(self.bank, Bank) else self.bank
        return inputs.embed(
            model,
            parse_columns(self.layers),
            bank=cache_dir() / "features" if bank is None else bank,
            settings=run_settings(
                workers=self.workers,
                device="auto" if self.device is None else self.device,
                batch_size=self.batch_size,
            ),
        ).features

    def _features(self, X: Any) -> Array:
        """Return features of `X` by the recipe of the fit."""
        from featbank.workflows.inputs import read_inputs

        check_is_fitted(self)
        if self._precomputed():
            return validate_data(self, X, reset=False)
        inputs = read_inputs(X)
        model = self._open()
        _check_same(self.recipe_, model.recipe)
        return self._embed(inputs, model)


class TransferClassifier(ClassifierMixin, _OnImages):
    """Classify images by the features of a frozen pretrained network.

    Each image goes through the network once, whatever is then fitted on its features: they are
    kept in a bank, where clones, folds and other processes find them.

    Parameters
    ----------
    model : str, Request or ModuleBackbone, default="resnet50"
        A name of ``featbank models``; a `featbank.backbones.Request` for other preprocessing; your
        own network by `featbank.backbones.from_module`, whose features are kept only if it has a
        version; or ``"precomputed"``: `X` is a matrix of features then, and the options of the
        backbone say nothing.
    head : str or estimator, default="logreg"
        As in `featbank.make_head`. With an estimator such as ``make_head("svm")``, parameters like
        ``head__svc__C`` are open to a grid search.
    tune : bool, default=False
        Choose the parameters of a named head by cross-validation on the rows of the fit, from the
        head's grid, before it is fitted. Rows of equal features, and of one group (`groups` of
        `fit`), stay together.
    bank : path or Bank, optional
        Where features are looked up and kept; by default the ``features`` folder of featbank's
        cache directory (``$FEATBANK_CACHE``, else ``~/.cache/featbank``).
    layers : str or list of str, optional
        ``layer[:pooling]``, several joined side by side; by default the input of the final
        classifier.
    weights : str, default="DEFAULT"
        A torchvision enum name, a timm tag, a file, or ``"none"`` for a random network.
    device : {"auto", "cpu", "cuda", "mps"}, optional
    workers : int, optional
        Processes that read images, by default one a core. 0 starts none, and guards against no
        image that hangs.
    batch_size : int, optional
    random_state : int, RandomState instance or None, default=None
        Seed of the head and of the folds of `tune`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    head_ : estimator
        Fitted on the features.
    best_params_ : dict
        What `tune` chose, by the parameters of `head_`; empty where nothing was chosen.
    recipe_ : Recipe or None
        The backbone as it was; None in precomputed form, and for a module without a version.
    n_features_in_ : int
        Columns of the features that the head was fitted on.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        In precomputed form, of an `X` that has names.

    See Also
    --------
    FeatureExtractor : The features alone.
    featbank.fit : Scores with intervals, on the images of a bank.

    Notes
    -----
    `X` is a sequence of image paths (list, array or pandas Series), a sequence of PIL images, or an
    array of shape (N, H, W, 3), uint8. PIL images are taken as they stand, without the turning that
    a file's EXIF data may ask for (`PIL.ImageOps.exif_transpose`). An image that can't be read
    raises an `ImageError`.

    Methods that the head lacks are lacking here: ``predict_proba`` with an SVM, say.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> TransferClassifier("precomputed", "lda").fit(X, y).predict(X[:2])
    array([0, 0])

    Of images, with a grid over heads:

    >>> from sklearn.model_selection import GridSearchCV
    >>> classifier = TransferClassifier("efficientnet_lite0")
    >>> search = GridSearchCV(classifier, {"head": ["logreg", "svm"]}, n_jobs=2)
    >>> search.fit(paths, labels)                                        # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Request | ModuleBackbone = "resnet50",
        head: Any = "logreg",
        *,
        tune: bool = False,
        bank: str | os.PathLike[str] | Bank | None = None,
        layers: str | Sequence[str] | None = None,
        weights: str = "DEFAULT",
        device: str | None = None,
        workers: int | None = None,
        batch_size: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.model = model
        self.head = head
        self.tune = tune
        self.bank = bank
        self.layers = layers
        self.weights = weights
        self.device = device
        self.workers = workers
        self.batch_size = batch_size
        self.random_state = random_state

    @_weights_if_taken
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, groups: Any = None) -> Self:
        """Embed the images that no bank row is there for, and fit the head.

        Parameters
        ----------
        X : sequence of paths or images, or ndarray
            See Notes of the class.
        y : array-like of shape (n_samples,)
            Classes.
        sample_weight : array-like of shape (n_samples,), optional
            Passed to every step of the head that takes it. Heads without weights (knn, lda,
            centroid) refuse it, and their `fit` has no such parameter in its signature.
        groups : array-like of shape (n_samples,), optional
            Patient, video, session, ...: the folds of `tune` keep the rows of a group together;
            None binds a row to no other. In a search of scikit-learn's, enable metadata routing
            and call ``set_fit_request(groups=True)``.

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
        HeadError
            The head is unknown, takes no weights, or has no grid for `tune`.
        """
        planned = plan_head_fit(
            self.head,
            tune=self.tune,
            sample_weight=sample_weight,
            groups=groups,
            seed=self._seed(),
        )
        if self._precomputed():
            features, y = validate_data(self, X, y)
            check_classification_targets(y)
            self.recipe_ = None
        else:
            from featbank.workflows.inputs import read_inputs

            y = validate_data(self, y=y)
            check_classification_targets(y)
            inputs = read_inputs(X)
            check_consistent_length(inputs.items, y)
            model = self._open()
            features = self._embed(inputs, model)
            seen = self._seen(inputs, model)
            if seen is not None and seen.any():
                warnings.warn(
                    f"{int(seen.sum())} of {len(seen)} images were seen by the network of "
                    f"{self._tuned_file(model)} when it was fine-tuned: `score` leaves such images "
                    "out, but scores of other functions on them mean nothing.",
                    UserWarning,
                    stacklevel=2,
                )
            self.recipe_ = model.recipe
            self.n_features_in_ = features.shape[1]
        self.best_params_ = planned.run(features, y)
        self.head_ = planned.estimator
        self.classes_ = self.head_.classes_
        return self

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy on `X`, without images that a tuned network was trained on.

        Raises
        ------
        EvaluationError
            The network has seen all of them, or nobody knows which.
        """
        check_is_fitted(self)
        if not self._precomputed():
            from featbank.workflows.inputs import read_inputs

            inputs = read_inputs(X)
            check_consistent_length(inputs.items, y)
            model = self._open()
            seen = self._seen(inputs, model)
            if seen is None and model.trained_on is not None:
                raise EvaluationError(
                    f"nobody knows which of these images {self._tuned_file(model)} was fine-tuned "
                    "on; give image files, and a file of weights that this featbank has written."
                )
            if seen is not None and seen.any():
                if seen.all():
                    raise EvaluationError(
                        f"all {len(seen)} images were seen by the network of "
                        f"{self._tuned_file(model)} when it was fine-tuned; score on others."
                    )
                kept = np.flatnonzero(~seen)
                X, y = [inputs.items[row] for row in kept.tolist()], np.asarray(y)[kept]
                if sample_weight is not None:
                    sample_weight = np.asarray(sample_weight)[kept]
        return float(super().score(X, y, sample_weight))

    def _seen(self, inputs: Inputs, model: Model) -> Array | None:
        """Return which images a tuned network was trained on; None where it can't be told."""
        if model.trained_on is None or not model.trained_on.known or not inputs.files:
            return None
        from featbank.workflows.seen import digests_of

        return model.trained_on.has(digests_of(list(inputs.items)))

    def _tuned_file(self, model: Model) -> str:
        return model.trained_on.file if model.trained_on else ""

    def predict(self, X: Any) -> Array:
        """Return the class of each image, shape (n_samples,)."""
        features = self._features(X)
        return self.head_.predict(features)

    @_if_head_has("predict_proba")
    def predict_proba(self, X: Any) -> Array:
        """Return probabilities of shape (n_samples, n_classes), where the head has them."""
        features = self._features(X)
        return self.head_.predict_proba(features)

    @_if_head_has("predict_log_proba")
    def predict_log_proba(self, X: Any) -> Array:
        """Return logarithms of probabilities, where the head has them."""
        features = self._features(X)
        return self.head_.predict_log_proba(features)

    @_if_head_has("decision_function")
    def decision_function(self, X: Any) -> Array:
        """Return the head's scores, where it has them; for two classes of shape (n_samples,)."""
        features = self._features(X)
        return self.head_.decision_function(features)

    def _seed(self) -> int | None:
        if self.random_state is None or isinstance(self.random_state, int | np.integer):
            return self.random_state
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))


class FeatureExtractor(TransformerMixin, _OnImages):
    """Turn images into features of a frozen pretrained network.

    A transformer for the head of a pipeline. Each image goes through the network once: features
    are kept in a bank.

    Parameters
    ----------
    model, bank, layers, weights, device, workers, batch_size
        As in `TransferClassifier`. With ``model="precomputed"`` features pass as they are.

    Attributes
    ----------
    n_features_out_ : int
        Columns of the features.
    recipe_ : Recipe or None
        The backbone as it was; None in precomputed form, and for a module without a version.
    n_features_in_ : int
        In precomputed form alone; images have no columns.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        In precomputed form, of an `X` that has names.

    See Also
    --------
    TransferClassifier : A classifier on these features.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> extractor = FeatureExtractor("efficientnet_lite0")
    >>> pipeline = make_pipeline(extractor, StandardScaler(), LogisticRegression())
    >>> pipeline.fit(paths, labels)                                      # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Request | ModuleBackbone = "resnet50",
        *,
        bank: str | os.PathLike[str] | Bank | None = None,
        layers: str | Sequence[str] | None = None,
        weights: str = "DEFAULT",
        device: str | None = None,
        workers: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.model = model
        self.bank = bank
        self.layers = layers
        self.weights = weights
        self.device = device
        self.workers = workers
        self.batch_size = batch_size

    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the backbone and the width of its features, by the first image of `X` alone.

        Raises
        ------
        DataError, ImageError, BackboneError
            As `TransferClassifier.fit`.
        """
        self._fit(X, everything=False)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Array:
        """Fit, and return the features of `X`; see `transform`."""
        return self._fit(X, everything=True)

    def transform(self, X: Any) -> Array:
        """Return the features of each image, shape (n_samples, n_features_out_).

        float32, or float16 where `layers` say so; in precomputed form `X`, its dtype kept.
        """
        return self._features(X)

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return a name for each column: ``<backbone>_<number>``.

        In precomputed form the names of the columns of `X`. `input_features` names those; images
        have none, and it is ignored then.
        """
        check_is_fitted(self)
        if self._precomputed():
            return _check_feature_names_in(self, input_features)
        name = "features" if self.recipe_ is None else self.recipe_.backbone
        return np.array([f"{name}_{i}" for i in range(self.n_features_out_)], dtype=object)

    def _fit(self, X: Any, *, everything: bool) -> Array:
        if self._precomputed():
            features = validate_data(self, X)
            self.recipe_ = None
        else:
            from featbank.workflows.inputs import read_inputs

            inputs = read_inputs(X)
            model = self._open()
            features = self._embed(inputs if everything else inputs.first(), model)
            self.recipe_ = model.recipe
            for name in ("n_features_in_", "feature_names_in_"):  # of a fit in precomputed form
                self.__dict__.pop(name, None)
        self.n_features_out_ = features.shape[1]
        return features


def _check_same(wanted: Recipe | None, found: Recipe | None) -> None:
    """Refuse features of another recipe than that of the fit."""
    if wanted is None or found is None:
        fields = [] if wanted is found else ["version"]
    else:
        fields = wanted.differences(found)
        if fields == ["weights"]:
            raise WeightsMismatch(
                f"fitted on weights with the digest {wanted.weights[:12]}..., and those found now "
                f"have {found.weights[:12]}...; bring the old weights back, or fit again."
            )
    if fields:
        raise BackboneError(
            f"the backbone found now differs from that of the fit in {', '.join(fields)}; "
            "fit again, or set the parameters back."
        )
