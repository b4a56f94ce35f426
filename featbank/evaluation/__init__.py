"""Evaluation: how good a head is on features, honestly. Takes arrays, knows no files."""

from featbank.evaluation.crossval import cross_validate
from featbank.evaluation.final import FinalFit, fit_final
from featbank.evaluation.intervals import Estimate
from featbank.evaluation.neighbours import NearDuplicates, near_duplicates
from featbank.evaluation.result import EvaluationResult, HeadResult, PerClass, Predictions

__all__ = [
    "Estimate",
    "EvaluationResult",
    "FinalFit",
    "HeadResult",
    "NearDuplicates",
    "PerClass",
    "Predictions",
    "cross_validate",
    "fit_final",
    "near_duplicates",
]
