"""From a folder or a table of labelled images to scores and a saved classifier, from Python.

    python examples/solar_cells.py data/ --model efficientnet_lite0

Without a source it takes the solar cells of the extra ``demo``, as `featbank demo` does: weighted
as published, with random cells held out and then whole modules.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import featbank
from featbank.cli.solar_cells import solar_cells, write_cells


def main() -> None:
    """Extract, score three heads, save them, and predict a few images again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="a folder with a subfolder a class, or a CSV")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--bank", default="bank")
    parser.add_argument("--out", default=".")
    options = parser.parse_args()

    source, weights = options.source, {}
    if source is None:
        root, cells = solar_cells()
        table = Path(options.out) / "cells.csv"
        write_cells(str(table), cells)
        source = featbank.open_source(table, root=root)
        weights = {"sample_weight": "weight", "metric_weight": "weight"}
    bank = featbank.extract(source, options.model, options.bank, weights=options.weights)
    print(f"{len(bank.paths)} images, features of shape {bank.features().shape}")

    heads = ["logreg", "ridge", "linear-svm"]
    result = featbank.fit(
        bank, heads, tune=False, cv=0.25, repeats=5, group="none", out=options.out, **weights
    )
    print(result.table())
    if weights:
        print("\nwhole modules held out:\n")
        print(featbank.fit(bank, heads, tune=False, **weights).table())

    best = max(result.heads, key=lambda head: head.metrics["accuracy"].mean)
    told = featbank.predict(best.classifier, bank.paths[:3], bank=options.bank)
    for one in told.predictions:
        print(Path(one.path).name, one.label)


if __name__ == "__main__":
    main()
