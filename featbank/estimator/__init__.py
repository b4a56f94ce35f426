"""Estimators: scikit-learn's way to backbones and heads, frozen or fine-tuned.

None keeps an open file, and none pickles a live network: a backbone is found again by its words
whenever features are lacking, and what was fine-tuned is kept as plain arrays.
"""

from __future__ import annotations

from featbank.estimator.finetune import FineTuneClassifier
from featbank.estimator.transfer import FeatureExtractor, TransferClassifier

__all__ = ["FeatureExtractor", "FineTuneClassifier", "TransferClassifier"]
