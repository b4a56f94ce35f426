"""Ants and bees: ResNet-18 as a fixed feature extractor, and fine-tuned.

    python examples/ants_bees.py hymenoptera_data/

`hymenoptera_data` holds train and val, with a subfolder a class. Both trainings are the tutorial's;
the last line is what featbank is for: a logistic regression on the features.
"""

from __future__ import annotations

import argparse

import featbank


def main() -> None:
    """Score three ways to use the network on the same images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder with train and val")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--epochs", type=int, default=25)
    options = parser.parse_args()

    words = {
        "weights": options.weights,
        "optimizer": "sgd",
        "lr": 0.001,
        "backbone_lr": 1.0,
        "weight_decay": 0.0,
        "schedule": "step",
        "augment": "crop",
        "batch_size": 4,
        "epochs": options.epochs,
        "monitor": "accuracy",
        "out": None,
    }
    fixed = featbank.finetune(options.data, options.model, unfreeze="head", **words)
    tuned = featbank.finetune(options.data, options.model, unfreeze="all", **words)
    bank = featbank.extract(options.data, options.model, "bank", weights=options.weights)
    frozen = featbank.fit(bank, "logreg", out=None)
    for name, result in (
        ("fixed extractor", fixed.evaluation),
        ("fine-tuned", tuned.evaluation),
        ("logreg on features", frozen),
    ):
        head = result.heads[0]
        accuracy = head.metrics["accuracy"]
        interval = f"{accuracy.low:.3f} to {accuracy.high:.3f}"
        print(f"{name:20} {accuracy.mean:.3f} ({interval})  {head.seconds:.0f} s")


if __name__ == "__main__":
    main()
