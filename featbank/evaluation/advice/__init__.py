"""Advice: how features of several layers do, and what follows from it."""

from featbank.evaluation.advice.decision import Decision, Figures, decide
from featbank.evaluation.advice.result import Advice, Command, LayerChosen, LayerScore, SharePoint
from featbank.evaluation.advice.run import measure

__all__ = [
    "Advice",
    "Command",
    "Decision",
    "Figures",
    "LayerChosen",
    "LayerScore",
    "SharePoint",
    "decide",
    "measure",
]
