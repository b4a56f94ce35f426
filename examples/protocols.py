"""A folder scored by published protocols; each image is embedded once for all of them.

python examples/protocols.py data/ --model efficientnet_lite0
"""

from __future__ import annotations

import argparse

import featbank


def main() -> None:
    """Print the figure that each protocol reports, with its 95 % interval."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a folder with one subfolder a class")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--bank", default="bank")
    parser.add_argument("--protocols", default="clip-linear,dinov2-knn,fewshot-ridge")
    options = parser.parse_args()

    bank = featbank.extract(options.source, options.model, options.bank, weights=options.weights)
    for name in options.protocols.split(","):
        result = featbank.fit_protocol(bank, name, cv=0.25)
        for setting in result.settings:
            score = setting.metrics[result.constants["metric"]]
            interval = f"{score.low:.3f} to {score.high:.3f}"
            print(f"{name:15} {setting.head:16} {score.mean:.3f} ({interval})")


if __name__ == "__main__":
    main()
