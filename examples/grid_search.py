"""A grid search over heads and their parameters, inside scikit-learn; each image is embedded once.

python examples/grid_search.py data/ --model efficientnet_lite0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sklearn.model_selection import GridSearchCV, StratifiedKFold

import featbank


def main() -> None:
    """Search over whole heads, and over C of one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder with one subfolder a class")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--bank", default=None)
    options = parser.parse_args()

    paths = sorted(str(p) for p in options.source.glob("*/*") if p.suffix in {".png", ".jpg"})
    labels = [Path(path).parent.name for path in paths]
    classifier = featbank.TransferClassifier(
        options.model, weights=options.weights, bank=options.bank, random_state=0
    )
    search = GridSearchCV(
        classifier,
        [
            {"head": ["logreg", "ridge", "knn"]},
            {"head": [featbank.make_head("svm")], "head__svc__C": [0.1, 1.0, 10.0]},
        ],
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
        n_jobs=2,
    )
    search.fit(paths, labels)
    print(f"best: {search.best_params_}, accuracy {search.best_score_:.3f}")


if __name__ == "__main__":
    main()
