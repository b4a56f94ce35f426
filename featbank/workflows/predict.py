"""Predict: a saved classifier, on features or fine-tuned, on new images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featbank.backbones.recipe import Column, Recipe
from featbank.backbones.request import Request
from featbank.errors import ClassifierError, WeightsMismatch
from featbank.extraction.run import Settings
from featbank.workflows.embed import embed_paths
from featbank.workflows.extract import Model, open_model
from featbank.workflows.prediction_inputs import named_images
from featbank.workflows.prediction_result import ImagePrediction, PredictionResult

if TYPE_CHECKING:
    from featbank.backbones.module import ModuleBackbone
    from featbank.classifier import Classifier, Prediction
    from featbank.finetuning.tuned import TunedClassifier

__all__ = ["load_classifier", "predict"]


def load_classifier(
    path: str | os.PathLike[str], *, trust: Iterable[str] = ()
) -> Classifier | TunedClassifier:
    """Read a classifier to predict with: one on features, or by ``.safetensors`` a tuned one.

    Raises
    ------
    ClassifierError, UntrustedTypeError
    """
    if os.fspath(path).lower().endswith(".safetensors"):
        from featbank.finetuning.tuned import TunedClassifier

        return TunedClassifier.load(path)
    from featbank.classifier import Classifier

    return Classifier.load(path, trust=trust, plain=True)


def predict(
    classifier: Classifier | TunedClassifier | str | os.PathLike[str],
    images: Any,
    *,
    root: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str | None] | None = None,
    delimiter: str | None = None,
    top: int = 5,
    bank: str | os.PathLike[str] | None = None,
    weights: str | None = None,
    model: ModuleBackbone | None = None,
    trust: Iterable[str] = (),
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PredictionResult:
    """Classify image files with a saved classifier.

    Parameters
    ----------
    classifier : Classifier, TunedClassifier or path
    images : path, sequence of paths, or DataFrame
        Image files, folders whose images are all taken, and tables (``.csv``, ``.tsv``) with a
        column of paths.
    root, columns, delimiter
        Of a table, as in `featbank.extract`: the folder that its paths are relative to, the name
        of the column of paths (``{"path": "file"}``), and the delimiter.
    top : int
        Number of classes returned for each image.
    bank : path, optional
        A bank as cache, a folder or a packed file: features are looked up there and added; its
        index stays as it is.
    weights : str, optional
        Where the backbone's weights are, if they are not where they were.
    model : ModuleBackbone, optional
        The backbone, if it was a module of your own.
    trust : iterable of str
        Further types that the file may hold, as ``package.module.Class``.
    settings : Settings, optional
    progress : callable, optional

    Returns
    -------
    PredictionResult
        In the order in which the images were named.

    Raises
    ------
    ClassifierError, UntrustedTypeError
        The file can't be used.
    WeightsMismatch
        The weights have other bytes than those that the classifier was fitted on.
    SourceNotFound
        A file or folder that was named is not there.
    """
    from featbank.finetuning.tuned import TunedClassifier

    if isinstance(classifier, str | os.PathLike):
        classifier = load_classifier(classifier, trust=trust)
    named = named_images(images, root=root, columns=columns, delimiter=delimiter)
    if isinstance(classifier, TunedClassifier):
        if weights is not None or model is not None or bank is not None:
            raise ClassifierError(
                "a fine-tuned classifier brings its own network, whose answers are kept in no "
                "bank; leave weights, model and bank out."
            )
        return _predict_tuned(classifier, named, top, settings, progress)
    embedded = embed_paths(
        list(named.values()),
        classifier_model(classifier, weights=weights, model=model),
        classifier.columns,
        averaged=classifier.averaged,
        bank=bank,
        settings=settings,
        progress=progress,
    )
    names = list(named)
    readable = [name for name, ok in zip(names, embedded.readable, strict=True) if ok]
    found: Sequence[Sequence[Prediction]] = (
        classifier.top(embedded.features, top) if readable else []
    )
    labels: Sequence[tuple[str, ...] | None] = [None] * len(readable)
    if classifier.multilabel and readable:
        labels = classifier.labels(embedded.features)
    return PredictionResult(
        predictions=tuple(
            ImagePrediction(name, tuple(best), own)
            for name, best, own in zip(readable, found, labels, strict=True)
        ),
        failed=tuple((names[row], reason) for row, reason in sorted(embedded.failures.items())),
        classifier=classifier,
        computed=embedded.computed,
        reused=embedded.reused,
        paths=tuple(names),
    )


def _predict_tuned(
    classifier: TunedClassifier,
    named: Mapping[str, bytes],
    top: int,
    settings: Settings | None,
    progress: Callable[[int, int], None] | None,
) -> PredictionResult:
    """Run a whole network as an extraction of its logits: guarded, and no image ends the run."""
    from featbank.backbones.module import from_module
    from featbank.data.decode import DecodePolicy
    from featbank.finetuning.tuned import top_predictions
    from featbank.heads.plain import softmax

    network = classifier.network()
    backbone = from_module(
        network.module,
        transform=classifier.preprocess,
        version=classifier.digest,
        name=network.name,
        decode=DecodePolicy.from_dict(classifier.preprocess.decoder),
    )
    columns = [Column(classifier.head_path)]
    embedded = embed_paths(
        list(named.values()),
        open_model(backbone),
        columns,
        settings=settings,
        progress=progress,
    )
    names = list(named)
    readable = [name for name, ok in zip(names, embedded.readable, strict=True) if ok]
    found: Sequence[Sequence[Prediction]] = []
    if readable:
        found = top_predictions(softmax(embedded.features), classifier.classes, top)
    return PredictionResult(
        predictions=tuple(
            ImagePrediction(name, tuple(best)) for name, best in zip(readable, found, strict=True)
        ),
        failed=tuple((names[row], reason) for row, reason in sorted(embedded.failures.items())),
        classifier=classifier,
        computed=embedded.computed,
        reused=embedded.reused,
        paths=tuple(names),
    )


def classifier_model(
    classifier: Classifier,
    *,
    weights: str | None = None,
    model: ModuleBackbone | None = None,
) -> Model:
    """Find the backbone of a classifier again, by its own words, and check that it is the one."""
    if model is not None:
        opened = open_model(model)
    elif classifier.recipe.source == "module":
        raise ClassifierError(
            f"this classifier's backbone is the module {classifier.recipe.backbone!r} of its "
            "maker's; use featbank.predict(..., model=from_module(...)) from Python."
        )
    else:
        request = Request.from_dict(classifier.request)
        if weights is not None:
            request = dataclasses.replace(request, weights=weights)
        opened = open_model(request)
    _check_same(classifier.recipe, opened.recipe)
    return opened


def _check_same(wanted: Recipe, found: Recipe | None) -> None:
    fields = ["version"] if found is None else wanted.differences(found)
    if not fields:
        return
    if fields == ["weights"] and found is not None:
        raise WeightsMismatch(
            f"the classifier was fitted on weights with the digest {wanted.weights[:12]}..., and "
            f"those found here have {found.weights[:12]}...; name the right file with --weights."
        )
    raise ClassifierError(
        f"the backbone found here differs from the classifier's in {', '.join(fields)}; "
        "predictions would mean nothing. Extract and fit again with what is here."
    )
