"""The demo: the main job on real images and real weights."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "--dir", "folder", default="demo", show_default=True, help="Where the demo keeps its files."
)
@click.option("--repeats", type=int, default=5, show_default=True, help="Of the 75/25 split.")
def demo(*, folder: str, repeats: int) -> None:
    """Run the main job on 2,624 real solar cells with real weights; nothing is downloaded."""
    from featbank.workflows.demo import demo as run

    run(folder, repeats=repeats, say=click.echo)
