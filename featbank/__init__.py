"""Embed every image once with a frozen pretrained network; classify the features in seconds.

The public names are imported when they are first used: ``import featbank`` loads neither torch nor
scikit-learn.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featbank.backbones import Column, ModuleBackbone, Preprocess, Recipe, from_module
    from featbank.bank.bank import Bank
    from featbank.bank.export import export
    from featbank.bank.maintenance import compact, verify
    from featbank.bank.merge import merge
    from featbank.bank.prune import prune
    from featbank.bank.repair import repair
    from featbank.classifier import Classifier
    from featbank.data.sources import Source, open_source
    from featbank.estimator.finetune import FineTuneClassifier
    from featbank.estimator.transfer import FeatureExtractor, TransferClassifier
    from featbank.evaluation.advice.result import Advice
    from featbank.evaluation.compared import ComparisonResult
    from featbank.evaluation.crossval import cross_validate
    from featbank.evaluation.curves.run import learning_curve
    from featbank.evaluation.neighbours import near_duplicates
    from featbank.evaluation.protocols.registry import list_protocols
    from featbank.evaluation.protocols.result import ProtocolResult
    from featbank.evaluation.protocols.run import run_protocol
    from featbank.evaluation.result import EvaluationResult
    from featbank.evaluation.select import rank_features
    from featbank.finetuning.settings import FineTuneSettings
    from featbank.finetuning.tuned import TunedClassifier
    from featbank.heads.registry import list_heads, make_head
    from featbank.reporting.plots import plot_history, plot_range_test
    from featbank.workflows.advise import advise
    from featbank.workflows.compare import compare
    from featbank.workflows.curve import curve
    from featbank.workflows.extract import extract
    from featbank.workflows.finetune import FineTuneResult, find_learning_rate, finetune
    from featbank.workflows.fit import fit
    from featbank.workflows.predict import predict
    from featbank.workflows.prediction_result import PredictionResult
    from featbank.workflows.protocol import fit_protocol
    from featbank.workflows.select import select

__version__ = "0.1.0.dev0"

_HOMES = {
    "Advice": "featbank.evaluation.advice.result",
    "Bank": "featbank.bank.bank",
    "Classifier": "featbank.classifier",
    "Column": "featbank.backbones.recipe",
    "ComparisonResult": "featbank.evaluation.compared",
    "EvaluationResult": "featbank.evaluation.result",
    "FeatureExtractor": "featbank.estimator.transfer",
    "FineTuneClassifier": "featbank.estimator.finetune",
    "FineTuneResult": "featbank.workflows.finetune",
    "FineTuneSettings": "featbank.finetuning.settings",
    "ModuleBackbone": "featbank.backbones.module",
    "PredictionResult": "featbank.workflows.prediction_result",
    "Preprocess": "featbank.backbones.recipe",
    "ProtocolResult": "featbank.evaluation.protocols.result",
    "Recipe": "featbank.backbones.recipe",
    "Source": "featbank.data.sources",
    "TransferClassifier": "featbank.estimator.transfer",
    "TunedClassifier": "featbank.finetuning.tuned",
    "advise": "featbank.workflows.advise",
    "compact": "featbank.bank.maintenance",
    "compare": "featbank.workflows.compare",
    "cross_validate": "featbank.evaluation.crossval",
    "curve": "featbank.workflows.curve",
    "export": "featbank.bank.export",
    "extract": "featbank.workflows.extract",
    "find_learning_rate": "featbank.workflows.finetune",
    "finetune": "featbank.workflows.finetune",
    "plot_history": "featbank.reporting.plots",
    "plot_range_test": "featbank.reporting.plots",
    "fit": "featbank.workflows.fit",
    "fit_protocol": "featbank.workflows.protocol",
    "from_module": "featbank.backbones.module",
    "learning_curve": "featbank.evaluation.curves.run",
    "list_heads": "featbank.heads.registry",
    "list_protocols": "featbank.evaluation.protocols.registry",
    "make_head": "featbank.heads.registry",
    "merge": "featbank.bank.merge",
    "near_duplicates": "featbank.evaluation.neighbours",
    "open_source": "featbank.data.sources",
    "predict": "featbank.workflows.predict",
    "prune": "featbank.bank.prune",
    "rank_features": "featbank.evaluation.select",
    "repair": "featbank.bank.repair",
    "run_protocol": "featbank.evaluation.protocols.run",
    "select": "featbank.workflows.select",
    "verify": "featbank.bank.maintenance",
}

__all__ = [
    "Advice",
    "Bank",
    "Classifier",
    "Column",
    "ComparisonResult",
    "EvaluationResult",
    "FeatureExtractor",
    "FineTuneClassifier",
    "FineTuneResult",
    "FineTuneSettings",
    "ModuleBackbone",
    "PredictionResult",
    "Preprocess",
    "ProtocolResult",
    "Recipe",
    "Source",
    "TransferClassifier",
    "TunedClassifier",
    "advise",
    "compact",
    "compare",
    "cross_validate",
    "curve",
    "export",
    "extract",
    "find_learning_rate",
    "finetune",
    "fit",
    "fit_protocol",
    "from_module",
    "learning_curve",
    "list_heads",
    "list_protocols",
    "make_head",
    "merge",
    "near_duplicates",
    "open_source",
    "plot_history",
    "plot_range_test",
    "predict",
    "prune",
    "rank_features",
    "repair",
    "run_protocol",
    "select",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'featbank' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
