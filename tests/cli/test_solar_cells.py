"""The solar cells: labels and weights as published, modules as inferred."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from featbank.cli.solar_cells import solar_cells, write_cells


@pytest.mark.real
def test_runs_of_one_type_give_the_papers_modules_and_its_weights(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset")
    _, cells = solar_cells()
    modules = {cell.module: cell.kind for cell in cells}
    assert Counter(modules.values()) == {"mono": 18, "poly": 26}
    assert all(modules[cell.module] == cell.kind for cell in cells)
    assert sum(cell.weight for cell in cells) / 4 == pytest.approx(598)
    assert all((cell.label == "defective") == (cell.probability > 0) for cell in cells)
    write_cells(str(tmp_path / "cells.csv"), cells, without_label=[cells[0].path])
    rows = list(csv.DictReader((tmp_path / "cells.csv").read_text().splitlines()))
    assert (rows[0]["label"], rows[1]["label"]) == ("", "defective")
    assert {row["weight"] for row in rows} == {"0.333333", "0.666667", "1"}
    assert len({row["group"] for row in rows}) == 44
