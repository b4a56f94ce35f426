"""Dogs and cats: a small network from scratch, and a head on ResNet-101, one epoch each.

    python examples/dogs_vs_cats.py train/

`train` holds a folder a class, or Kaggle's files dog.0.jpg, cat.0.jpg, ... side by side.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import featbank


def labelled(folder: str) -> featbank.Source:
    """Return a source of a folder a class, or of files whose names begin with the class."""
    if any(path.is_dir() for path in Path(folder).iterdir()):
        return featbank.open_source(folder)
    paths = [str(path) for path in sorted(Path(folder).iterdir())]
    return featbank.open_source(paths, [Path(path).name.partition(".")[0] for path in paths])


def main() -> None:
    """Score both on the same held-out fifth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="Kaggle's folder train")
    parser.add_argument("--model", default="resnet101")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()

    source = labelled(options.data)
    words = {"split": "random:80/20", "augment": "light", "epochs": options.epochs}
    scratch = featbank.finetune(
        source, "small-cnn-3", weights="none", optimizer="adam", out="small.safetensors", **words
    )
    transfer = featbank.finetune(
        source,
        options.model,
        weights=options.weights,
        unfreeze="head",
        hidden=[1000],
        dropout=0.5,
        optimizer="adam",
        out="transfer.safetensors",
        **words,
    )
    for name, result in (("from scratch", scratch), (options.model, transfer)):
        accuracy = result.evaluation.heads[0].metrics["accuracy"]
        print(f"{name:14} {accuracy.mean:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})")


if __name__ == "__main__":
    main()
