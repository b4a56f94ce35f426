"""Ten animals of Caltech-256: a new head of two layers on a frozen ResNet-50.

    python examples/caltech256_animals.py caltech_10_classes/

Of each class the first 60 images train, the next 10 are watched, the rest test. The tutorial
reported 92.4 % of the test images right; see README.md beside this file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import featbank


def main() -> None:
    """Train the head with augmentation, test it, and predict one image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder with one subfolder a class")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--split", default="first:60/10")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--image", help="one image to predict; by default the first of the folder")
    options = parser.parse_args()

    result = featbank.finetune(
        options.data,
        options.model,
        weights=options.weights,
        split=options.split,
        unfreeze="head",
        hidden=[256],
        dropout=0.4,
        augment="standard",
        optimizer="adam",
        lr=1e-3,
        schedule="constant",
        batch_size=32,
        epochs=options.epochs,
        patience=5,
        out="caltech256_animals.safetensors",
    )
    print(result.table())

    image = options.image or min(Path(options.data).glob("*/*"))
    (told,) = featbank.predict(result.classifier, image, top=3).predictions
    for guess in told.top:
        print(f"{guess.probability:.3f} {guess.label}")


if __name__ == "__main__":
    main()
