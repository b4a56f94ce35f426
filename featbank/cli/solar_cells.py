"""The solar cells of the package elpv-dataset: labels and weights as published, modules inferred.

Labels and weights follow Deitsch et al. 2019 (doi:10.1016/j.solener.2019.02.067, arXiv:1807.02894,
table 1): a cell is defective where its probability is over 0. A defective cell weighs as much as
its probability (1/3, 2/3 or 1) and a functional one 1, in training and in the reported accuracy.
The body of the paper could not be opened for this: the weighting is inferred from the accuracies
in its abstract. 88.4228187919 % and 82.43847875 % are 1581/1788 and 1474/1788, sums of thirds over
596, which no 656 unweighted cells give. A quarter of the cells weighs 598 by this rule.

Modules are inferred too. The package gives no modules, but the paper has 44 (18 monocrystalline,
26 polycrystalline) of 60 or 72 cells, some of which are left out, and the file order is theirs: the
type of cell changes 9 times in 2,624 files. Each run of one type, divided into equal blocks of
about 60, gives exactly 18 and 26 blocks. The borders of a block may be off by a few cells.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import groupby

from featbank.errors import MissingDependency

__all__ = ["MODULE", "Cell", "module_blocks", "solar_cells", "write_cells"]

MODULE = 60
"""Cells of most modules."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes
    ----------
    path : str
        Relative to the folder of the data.
    label : {"functional", "defective"}
    kind : {"mono", "poly"}
    probability : float
        Of a defect, as two experts agreed: 0, 1/3, 2/3 or 1.
    weight : float
        In training and in metrics.
    module : str
        Inferred.
    """

    path: str
    label: str
    kind: str
    probability: float
    weight: float
    module: str


def solar_cells() -> tuple[str, list[Cell]]:
    """Return the folder of the package's data, and its cells in the order of their files.

    Raises
    ------
    MissingDependency
        The package is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise MissingDependency(
            "the solar cells come with the extra demo: pip install 'featbank[demo]'."
        )
    folder = os.path.join(os.path.dirname(spec.origin), "data")
    with open(os.path.join(folder, "labels.csv"), encoding="utf-8") as file:
        lines = sorted(line.split() for line in file if line.strip())
    modules = module_blocks([kind for _, _, kind in lines])
    return folder, [
        _cell(path, float(probability), kind, module)
        for (path, probability, kind), module in zip(lines, modules, strict=True)
    ]


def _cell(path: str, probability: float, kind: str, module: str) -> Cell:
    probability = round(3 * probability) / 3  # the file rounds thirds
    label = "defective" if probability > 0 else "functional"
    return Cell(path, label, kind, probability, probability or 1.0, module)


def module_blocks(kinds: Sequence[str]) -> list[str]:
    """Return the module of each cell, inferred from the types of cells in the order of files.

    Each run of one type is divided into equal blocks, as many as come nearest to 60 cells each.

    Examples
    --------
    >>> blocks = module_blocks(["mono"] * 58 + ["poly"] * 125)
    >>> blocks[0], blocks[58], blocks[-1], len(set(blocks))
    ('mono-01', 'poly-02', 'poly-03', 3)
    """
    found: list[str] = []
    before = 0
    for kind, run in groupby(kinds):
        n = sum(1 for _ in run)
        blocks = max(1, round(n / MODULE))
        found += [f"{kind}-{before + i * blocks // n + 1:02}" for i in range(n)]
        before += blocks
    return found


def write_cells(path: str, cells: Sequence[Cell], *, without_label: Container[str] = ()) -> None:
    """Write cells as a table that featbank takes; the paths in `without_label` have none."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "type", "probability", "weight", "group"])
        for cell in cells:
            label = "" if cell.path in without_label else cell.label
            figures = (f"{cell.probability:.6g}", f"{cell.weight:.6g}")
            writer.writerow([cell.path, label, cell.kind, *figures, cell.module])
