"""102 flowers in two phases: the head first, then everything at a lower rate.

    python examples/flowers102.py flower_data/ --names cat_to_name.json --unlabelled test/

`flower_data` holds train and valid, with a subfolder a class. A range test comes first: its
picture shows which learning rates make the loss fall.
"""

from __future__ import annotations

import argparse

import featbank


def main() -> None:
    """Look for a learning rate, train in two phases, and write predictions as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder with train and valid")
    parser.add_argument("--names", help="cat_to_name.json")
    parser.add_argument("--unlabelled", help="a folder of images to name")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--head-epochs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()

    source = featbank.open_source(options.data, class_names=options.names)
    words = {
        "weights": options.weights,
        "augment": "flowers",
        "optimizer": "sgd",
        "lookahead": True,
        "batch_size": 64,
    }
    test = featbank.find_learning_rate(
        source, options.model, unfreeze="head", plot="range_test.png", **words
    )
    print(f"{test.summary()} The curve is range_test.png.")
    rate = test.suggestion or 0.01

    result = featbank.finetune(
        source,
        options.model,
        head_epochs=options.head_epochs,
        head_lr=rate,
        epochs=options.epochs,
        lr=rate / 10,
        schedule="one-cycle",
        out="flowers102.safetensors",
        plot="flowers102.png",
        **words,
    )
    print(result.table())

    if options.unlabelled:
        told = featbank.predict(result.classifier, options.unlabelled)
        told.write_csv("flowers102.csv")
        print(f"{len(told.predictions)} predictions in flowers102.csv")


if __name__ == "__main__":
    main()
