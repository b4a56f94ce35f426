"""From a folder or a table of labelled images to scores and a saved classifier, from Python.

    python examples/solar_cells.py data/ --model efficientnet_lite0

Without a source it takes the solar cells of the extra ``demo``, as `featbank demo` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import featbank


def solar_cells() -> tuple[list[str], list[str]]:
    """Return paths and labels of the cells of the package elpv-dataset."""
    import elpv_dataset

    data = Path(elpv_dataset.__file__).parent / "data"
    rows = [line.split() for line in (data / "labels.csv").read_text().splitlines()]
    paths = [str(data / name) for name, _, _ in rows]
    labels = ["defective" if float(p) > 0.5 else "functional" for _, p, _ in rows]
    return paths, labels


def main() -> None:
    """Extract, score three heads, save them, and predict a few images again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="a folder with a subfolder a class, or a CSV")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--bank", default="bank")
    parser.add_argument("--out", default=".")
    options = parser.parse_args()

    source = options.source or featbank.open_source(*solar_cells(), name="cells")
    bank = featbank.extract(source, options.model, options.bank, weights=options.weights)
    print(f"{len(bank.paths)} images, features of shape {bank.features().shape}")

    result = featbank.fit(bank, ["logreg", "ridge", "knn"], tune=False, out=options.out)
    print(result.table())

    best = max(result.heads, key=lambda head: head.metrics["accuracy"].mean)
    told = featbank.predict(best.classifier, bank.paths[:3], bank=options.bank)
    for one in told.predictions:
        print(Path(one.path).name, one.label)


if __name__ == "__main__":
    main()
