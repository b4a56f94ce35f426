"""The demo: the main job on real images and real weights, as commands that a reader can type."""

from __future__ import annotations

import os
import shlex

import click

from featbank.cli.solar_cells import Cell, solar_cells, write_cells

MODEL = "efficientnet_lite0"
HELD_OUT = 6

PUBLISHED = """\
Published on one such split (Deitsch et al. 2019, doi:10.1016/j.solener.2019.02.067):
  82.44 %  SVM on hand-made features
  88.42 %  VGG-19 fine-tuned on a GPU, with augmentation
One split has a standard error of about 1.4 points. Labels, weights and the share held out are the
paper's, as inferred from its abstract; the heads' grids were developed on these cells."""

MODULES = """\
The difference is what cells of the same module tell about each other: expect the second figures,
not the first, on cells of a module that the head has never seen."""


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
    data, cells = solar_cells()
    images = _link(data, os.path.join(folder, "cells"))
    table = os.path.join(folder, "cells.csv")
    held_out = _write_table(cells, table)
    bank = os.path.join(folder, "bank")
    extract = ["extract", "--model", MODEL, "--squash", "--bank", bank, "--root", images, table]

    _say(
        "1. Embed every image once. Every cell is squashed to 224 x 224, so that no border is cut\n"
        f"   off; the labels of {HELD_OUT} cells are held back, to predict them at the end."
    )
    _run(*extract)
    _say(
        "2. Three heads with fixed settings by the published rule: a quarter of the cells is held\n"
        f"   out at random, stratified, drawn {repeats} times. A cell is defective if its "
        "probability is over\n   0, and a defective cell weighs as much as its probability, in "
        "training and in every metric."
    )
    weights = ["--sample-weight", "weight", "--metric-weight", "weight"]
    heads = ["--head", "logreg,svm,mlp", "--no-tune"]
    folds = ["--cv", "0.25", "--repeats", str(repeats), "--group", "none"]
    _run("fit", "--bank", bank, *heads, *folds, *weights, "--out", folder)
    click.echo(f"\n{PUBLISHED}")
    _say(
        "3. The same, with whole modules held out, each of them once. The table's groups are\n"
        "   modules, inferred from the order of the files; featbank keeps groups together unless\n"
        "   told otherwise."
    )
    _run("fit", "--bank", bank, *heads, "--cv", "5", *weights, "--no-save")
    click.echo(f"\n{MODULES}")
    _say("4. The saved classifier on the cells that it has not seen:")
    chosen = [os.path.join(images, name) for name in held_out]
    _run("predict", "--bank", bank, os.path.join(folder, "logreg.skops"), *chosen)
    click.echo(f"In truth they are {', '.join(held_out.values())}.")
    _say("5. The same extraction again: nothing is read, nothing is computed.")
    _run(*extract)


def _link(images: str, link: str) -> str:
    """Give the images a short name, for commands that are good to read."""
    try:
        if os.path.islink(link):
            os.unlink(link)
        os.symlink(images, link)
    except OSError:  # not every system and disk has symbolic links
        return images
    return link


def _write_table(cells: list[Cell], path: str) -> dict[str, str]:
    """Write the cells as a CSV that featbank takes; return the labels held back, by name."""
    clear: dict[str, list[str]] = {"functional": [], "defective": []}
    for cell in cells:
        if cell.probability in (0.0, 1.0):  # the experts agreed
            clear[cell.label].append(cell.path)
    # Spread over the set, for neighbouring cells come from the same module.
    held_out = {
        names[len(names) * (2 * i + 1) // HELD_OUT]: label
        for label, names in clear.items()
        for i in range(HELD_OUT // 2)
    }
    write_cells(path, cells, without_label=held_out)
    return held_out


def _run(*words: str) -> None:
    """Print a command as one types it, and run it."""
    from featbank.cli import cli

    click.echo(click.style(f"$ featbank {shlex.join(words)}", bold=True))
    cli.main(list(words), prog_name="featbank", standalone_mode=False)


def _say(text: str) -> None:
    click.echo(f"\n{text}\n")
