"""The commands that bring banks from and to others: compact, merge, export."""

from __future__ import annotations

import os

import click

from featbank.cli.options import bank_option, json_option, print_json, shown, words_of


@click.command()
@click.argument("target", required=False)
@bank_option
@json_option
def compact(*, target: str | None, bank: str, as_json: bool) -> None:
    """Write the bank as one plain HDF5 file, for sharing.

    Its name is TARGET, by default the bank's with .h5 behind it.
    """
    from featbank.bank.bank import Bank
    from featbank.bank.maintenance import compact as pack

    path = pack(Bank(bank), target)
    if as_json:
        print_json({"path": path, "bytes": os.path.getsize(path)})
    else:
        click.echo(f"{shown(path)}, {os.path.getsize(path) / 1e6:.1f} MB")


@click.command()
@click.argument("others", nargs=-1, required=True)
@bank_option
@json_option
def merge(*, others: tuple[str, ...], bank: str, as_json: bool) -> None:
    """Bring features and index of OTHERS, folders or packed files, into the bank.

    What the bank has already is not added again; OTHERS stay as they are. Sources of the same
    folder or table are joined, and the bank's own entry of an image stands.
    """
    from featbank.bank.merge import merge as join

    found = join(bank, others)
    if as_json:
        print_json(
            {
                "bank": os.path.abspath(bank),
                "images": found.images,
                "rows": found.rows,
                "shards": found.shards,
                "recipes": list(found.recipes),
            }
        )
        return
    click.echo(
        f"{found.images} images, {found.rows} rows in {found.shards} shards added to {shown(bank)}"
    )
    for name in found.recipes:
        click.echo(f"  new recipe {name}")


@click.command()
@click.argument("target")
@bank_option
@click.option("--recipe", metavar="NAME", help="Which backbone, if the bank has several.")
@click.option("--layers", metavar="L,...", help="Which layers, if there are several; joined.")
@click.option("--view", metavar="NAME", help="Which view, if there are several.")
@click.option("--split", metavar="NAME", help="Only images of this split.")
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Only this source.")
@click.option("--label", metavar="COLUMN", help="The table's column that is the label.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@json_option
def export(
    *,
    target: str,
    bank: str,
    recipe: str | None,
    layers: str | None,
    view: str | None,
    split: str | None,
    sources: tuple[str, ...],
    label: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write features with their labels into TARGET, for other programs.

    Its ending says the format: .npz (NumPy, everything in it), .npy (the numbers alone, and beside
    it a .csv of the same name with path, label, split, group and SHA-256 of each row's image), or
    .parquet (extra parquet).
    """
    from featbank.bank.export import export as write

    found = write(
        bank,
        target,
        recipe=recipe,
        layer=words_of(layers),
        view=view,
        split=split,
        source=list(sources) or None,
        label=label,
        force=force,
    )
    if as_json:
        print_json(
            {
                "path": found.path,
                "files": list(found.files),
                "rows": found.rows,
                "width": found.width,
            }
        )
        return
    click.echo(f"{found.rows} x {found.width} in {', '.join(map(shown, found.files))}")
