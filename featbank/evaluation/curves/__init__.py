"""Learning curves: what labels brought, and what more of them should bring."""

from featbank.evaluation.curves.result import CurvePoint, Gain, HeadCurve, LearningCurve
from featbank.evaluation.curves.run import learning_curve

__all__ = ["CurvePoint", "Gain", "HeadCurve", "LearningCurve", "learning_curve"]
