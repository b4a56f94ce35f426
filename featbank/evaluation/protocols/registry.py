"""The registry of protocols: each with its source, its constants and the function that runs it.

Every constant was compared with the source that it names; each function's notes say where one
looked, and what is ours because the source is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from featbank.errors import EvaluationError, nearest
from featbank.evaluation.protocols.fewshot import fewshot_logreg, fewshot_ridge
from featbank.evaluation.protocols.linear import clip_linear, dinov2_logreg, vtab1k
from featbank.evaluation.protocols.neighbours import dinov2_knn
from featbank.evaluation.protocols.task import Outcome, Task
from featbank.evaluation.protocols.voc import voc07_svm

__all__ = ["PROTOCOLS", "Protocol", "find_protocol", "list_protocols"]


@dataclass(frozen=True)
class Protocol:
    """One entry of the registry.

    Attributes
    ----------
    learns : str
        What is fitted on which features.
    chooses : str
        What is chosen or drawn, and what is reported.
    source : str
        The paper and the code.
    run : callable
    constants : dict
        What `run` goes by; plain data.
    multilabel : bool
        Whether an image may have several classes.
    """

    learns: str
    chooses: str
    source: str
    run: Callable[[Task, Mapping[str, Any]], Outcome]
    constants: dict[str, Any] = field(default_factory=dict)
    multilabel: bool = False

    @property
    def description(self) -> str:
        """Three lines."""
        return f"{self.learns}\n{self.chooses}\n{self.source}"


PROTOCOLS = {
    "clip-linear": Protocol(
        learns="Logistic regression on features as they are; L-BFGS, at most 1,000 iterations.",
        chooses="C on valid, coarse to fine, 1e-6 to 1e6, 8 steps a decade; refit with valid.",
        source="Radford et al. 2021, appendix A.3 (arXiv:2103.00020); openai/CLIP, README.md",
        run=clip_linear,
        constants={
            "solver": "lbfgs",
            "max_iter": 1000,
            "exponents": [-6, 6],
            "steps_per_decade": 8,
            "coarse_step": 16,
            "valid_share": 0.2,
            "metric": "accuracy",
        },
    ),
    "dinov2-knn": Protocol(
        learns="Nearest neighbours by cosine, votes weighted by a softmax at temperature 0.07.",
        chooses="Nothing is chosen: k = 10, 20, 100 and 200 are all reported.",
        source="Oquab et al. 2023 (arXiv:2304.07193); facebookresearch/dinov2, dinov2/eval/knn.py",
        run=dinov2_knn,
        constants={
            "k": [10, 20, 100, 200],
            "temperature": 0.07,
            "metric": "accuracy",
        },
    ),
    "dinov2-logreg": Protocol(
        learns="Logistic regression on features as they are, in float64.",
        chooses="C of 45 values, 1e-6 to 1e5, on valid or 10 % of train by chance; refit on all.",
        source="Oquab et al. 2023 (arXiv:2304.07193); facebookresearch/dinov2, "
        "dinov2/eval/log_regression.py",
        run=dinov2_logreg,
        constants={
            "dtype": "float64",
            "exponents": [-6, 5],
            "values": 45,
            "max_iter": 1000,
            "tol": 1e-12,
            "valid_share": 0.1,
            "metric": "accuracy",
        },
    ),
    "voc07-svm": Protocol(
        learns="One linear SVM a class, on features of unit length; positives weigh twice.",
        chooses="C of 11 values, for each class by average precision in 3 folds; reports mAP.",
        source="Goyal et al. 2019 (arXiv:1905.01235); facebookresearch/vissl, "
        "vissl/utils/svm_utils/svm_trainer.py",
        run=voc07_svm,
        constants={
            "epsilon": 1e-5,
            "loss": "squared_hinge",
            "C": [0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0],
            "folds": 3,
            "positive_weight": 2,
            "max_iter": 2000,
            "tol": 1e-4,
            "metric": "voc_map",
        },
        multilabel=True,
    ),
    "fewshot-ridge": Protocol(
        learns="Least squares on targets of -1 and 1, L2 of 2^10, on standardised drawn features.",
        chooses="1, 5, 10 and 25 images a class are drawn with 3 seeds; mean over seeds.",
        source="google-research/big_vision, big_vision/evaluators/fewshot_lsr.py",
        run=fewshot_ridge,
        constants={
            "shots": [1, 5, 10, 25],
            "seeds": [0, 1, 2],
            "epsilon": 1e-5,
            "constant": 100.0,
            "l2": 2.0**10,
            "metric": "accuracy",
        },
    ),
    "fewshot-logreg": Protocol(
        learns="Logistic regression on 1, 2, 4, 8 and 16 images a class; L-BFGS, 1,000 iterations.",
        chooses="C on 1, 2 or 4 images a class of valid, by 8 bisections; mean over 10 seeds.",
        source="Zhou et al. 2022 (arXiv:2109.01134); KaiyangZhou/CoOp, lpclip/linear_probe.py",
        run=fewshot_logreg,
        constants={
            "solver": "lbfgs",
            "max_iter": 1000,
            "shots": [1, 2, 4, 8, 16],
            "valid_shots": [1, 2, 4, 4, 4],
            "seeds": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
            "exponents": [6, 4, 2, 0, -2, -4, -6],
            "steps": 8,
            "valid_share": 0.2,
            "metric": "accuracy",
        },
    ),
    "vtab1k": Protocol(
        learns="A head (logreg unless another is named) on 1,000 images drawn by chance.",
        chooses="Its settings on 200 of them after 800; refit on the 1,000, all of test scored.",
        source="Zhai et al. 2019 (arXiv:1910.04867); google-research/task_adaptation, "
        "task_adaptation/data",
        run=vtab1k,
        constants={"train": 800, "valid": 200, "head": "logreg", "metric": "accuracy"},
    ),
}


def list_protocols() -> dict[str, str]:
    """Return the names of all protocols, each with three lines: fit, choice and source.

    Examples
    --------
    >>> print(list_protocols()["dinov2-knn"])
    Nearest neighbours by cosine, votes weighted by a softmax at temperature 0.07.
    Nothing is chosen: k = 10, 20, 100 and 200 are all reported.
    Oquab et al. 2023 (arXiv:2304.07193); facebookresearch/dinov2, dinov2/eval/knn.py
    """
    return {name: PROTOCOLS[name].description for name in sorted(PROTOCOLS)}


def find_protocol(name: str) -> Protocol:
    """Return the protocol of this name.

    Raises
    ------
    EvaluationError
        There is none.
    """
    if name not in PROTOCOLS:
        known = nearest(name, PROTOCOLS, limit=len(PROTOCOLS))
        raise EvaluationError(f"there is no protocol {name!r}: {known}")
    return PROTOCOLS[name]
