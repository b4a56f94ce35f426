"""Claim: a bank's features are read at 80 % of np.load's rate, and a random tenth without the rest.

50,000 rows of 2,048 float32, warm, every side opening its files anew, in random order: np.load,
np.memmap copied, plain h5py (contiguous; in chunks), zarr where it is installed, `Bank.features`,
and the same of the packed bank. The bank's rows lie as two workers would have sealed them, in runs
of 16 images. Also measured: the bytes that the bank asks the system for, and the first readings of
two processes, of which the first compares the shards with their digests.

    python benchmarks/bank_read.py --rounds 9 --out bank_read.json
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RATE = 0.8  # of np.load's
BATCH, SHARD_ROWS = 16, 1024
TENTH = 0.15  # of all bytes: a tenth of the rows, the index, the keys

Reader = Callable[[Path, "np.ndarray | None"], np.ndarray]


def rows_of(folder: Path) -> np.ndarray:
    """Map the numbers."""
    mapped: np.ndarray = np.load(folder / "x.npy", mmap_mode="r")
    return mapped


def read_npy(folder: Path, rows: np.ndarray | None) -> np.ndarray:
    """Read with np.load; it has no way to read some rows only."""
    values: np.ndarray = np.load(folder / "x.npy")
    return values if rows is None else values[rows]


def read_memmap(folder: Path, rows: np.ndarray | None) -> np.ndarray:
    """Copy out of a memory map."""
    mapped = rows_of(folder)
    return np.array(mapped) if rows is None else np.asarray(mapped[rows])


def read_h5py(name: str) -> Reader:
    """Return a reader of plain HDF5, which wants rows in ascending order."""

    def read(folder: Path, rows: np.ndarray | None) -> np.ndarray:
        import h5py

        with h5py.File(folder / name, "r") as file:
            values: np.ndarray = file["x"][:] if rows is None else file["x"][rows]
            return values

    return read


def read_zarr(folder: Path, rows: np.ndarray | None) -> np.ndarray:
    """Read a zarr array of its default chunks and compression."""
    zarr: Any = importlib.import_module("zarr")
    array = zarr.open_array(folder / "x.zarr", mode="r")
    return np.asarray(array[:] if rows is None else array.oindex[rows])


def read_bank(name: str) -> Reader:
    """Return a reader of a bank."""

    def read(folder: Path, rows: np.ndarray | None) -> np.ndarray:
        from featbank import Bank

        bank = Bank(folder / name)
        return bank.features() if rows is None else bank.locate().read(rows)

    return read


SIDES: dict[str, Reader] = {
    "np.load": read_npy,
    "np.memmap": read_memmap,
    "h5py, contiguous": read_h5py("contiguous.h5"),
    "h5py, chunks": read_h5py("chunks.h5"),
    "zarr": read_zarr,
    "featbank": read_bank("bank"),
    "featbank, packed": read_bank("bank.h5"),
}


def make_data(folder: Path, n: int, width: int) -> None:
    """Write the same numbers in every form."""
    import h5py

    x = np.random.default_rng(0).random((n, width), np.float32)
    np.save(folder / "x.npy", x)
    with h5py.File(folder / "contiguous.h5", "w") as file:
        file.create_dataset("x", data=x)
    with h5py.File(folder / "chunks.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=True)
    if "zarr" in sides():
        zarr: Any = importlib.import_module("zarr")
        zarr.create_array(folder / "x.zarr", shape=x.shape, dtype=x.dtype)[:] = x
    fill_bank(folder, x)


def fill_bank(folder: Path, x: np.ndarray) -> None:
    """Write the bank that two workers would have filled."""
    from featbank.backbones.recipe import Column, Preprocess, Recipe
    from featbank.bank.bank import Bank
    from featbank.data.index import IndexedSource, Listing, Text

    n = len(x)
    colours = (0.5,) * 3
    preprocess = Preprocess(224, "squash", (224, 224), "bilinear", colours, colours)
    recipe = Recipe(backbone="made", source="module", weights="0" * 64, preprocess=preprocess)
    keys = np.random.default_rng(1).integers(0, 256, (n, 32), np.uint8)
    bank = Bank.create(folder / "bank")
    bank.register(recipe, {})
    batch = np.arange(n) // BATCH
    for worker in (0, 1):
        theirs = np.flatnonzero(batch % 2 == worker)
        for start in range(0, len(theirs), SHARD_ROWS):
            rows = theirs[start : start + SHARD_ROWS]
            bank.seal(recipe, keys[rows], {Column(): x[rows]})
    none, zeros = Text.empty(n), np.zeros(n, np.int64)
    label = Text.of(f"class{row % 20:02d}" for row in range(n))
    names = [b"image_%08d.jpg" % row for row in range(n)]
    listing = Listing(names, zeros, zeros, zeros, zeros, zeros + 10**13, label, none, none)
    source = IndexedSource.new("images", b"/images", listing)
    source.digest[:], source.known[:] = keys, True
    document = {"name": "images", "kind": "folder", "root": "/images"}
    bank.update([source], documents=[document])


def pack_bank(folder: Path) -> None:
    """Write the packed form of the bank."""
    from featbank import Bank
    from featbank.bank.packed import pack

    pack(Bank(folder / "bank"), os.fspath(folder / "bank.h5"))


def sides() -> list[str]:
    """Return the sides that can be measured here."""
    return [side for side in SIDES if side != "zarr" or importlib.util.find_spec("zarr")]


def asked() -> int:
    """Return how many bytes this process has asked the system to read; 0 where nobody counts."""
    try:
        return int(Path("/proc/self/io").read_text().split()[1])
    except OSError:
        return 0


def read_once(side: str, folder: Path, rows: np.ndarray | None) -> dict[str, float]:
    """Read; return seconds, processor seconds and bytes asked for."""
    np.ones(rows_of(folder).nbytes // 8)  # memory that others gave back may be slow to come again
    before, processor, start = asked(), time.process_time(), time.perf_counter()
    values = SIDES[side](folder, rows)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    count = asked() - before
    mapped = rows_of(folder)
    if not np.array_equal(values, mapped if rows is None else mapped[rows]):
        raise SystemExit(f"{side} read other numbers")
    return {"seconds": seconds, "processor": processor, "asked": count}


def read_in_new_process(folder: Path) -> dict[str, float]:
    """Read the bank's features once, imports apart."""
    command = [sys.executable, __file__, "--folder", os.fspath(folder), "--once"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_all(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make the data, read it in turn, return what was found."""
    make_data(folder, options.rows, options.width)
    time.sleep(2.5)  # younger shards are compared again, for they may change in the clock's tick
    first, second = read_in_new_process(folder), read_in_new_process(folder)
    pack_bank(folder)
    time.sleep(2.5)
    chosen = np.random.default_rng(2).choice(options.rows, options.rows // 10, replace=False)
    wanted = {"all": None, "tenth": np.sort(chosen)}
    runs: dict[str, dict[str, list[dict[str, float]]]] = {
        what: {side: [] for side in sides()} for what in wanted
    }
    for number in range(options.rounds + 1):
        for what, rows in wanted.items():
            for side in random.sample(sides(), len(sides())):
                once = read_once(side, folder, rows)
                if number:  # the first round warms up
                    runs[what][side].append(once)
    median = {
        what: {
            side: {key: statistics.median(run[key] for run in done) for key in done[0]}
            for side, done in found.items()
        }
        for what, found in runs.items()
    }
    return {"first": first, "second": second, "runs": runs, "median": median}


def main() -> None:
    """Measure all sides, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where there is room for the array seven times")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        import featbank.bank.bank

        assert featbank.bank.bank
        print(json.dumps(read_once("featbank", options.folder, None)))
        return
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        found = measure_all(folder, options)
    finally:
        shutil.rmtree(folder)

    size = 4 * options.rows * options.width
    whole, tenth = found["median"]["all"], found["median"]["tenth"]
    print(f"{options.rows:,} x {options.width:,} float32, {os.cpu_count()} cores, warm; medians")
    print(f"{'':18}{'all':>9}{'processor':>11}{'rate':>11}{'a tenth':>10}")
    for side, value in whole.items():
        print(
            f"{side:18}{value['seconds'] * 1e3:6.0f} ms{value['processor'] * 1e3:8.0f} ms"
            f"{size / value['seconds'] / 1e9:6.1f} GB/s{tenth[side]['seconds'] * 1e3:7.0f} ms"
        )
    if "zarr" not in whole:
        print("zarr is not installed and was not measured")
    rate = whole["np.load"]["seconds"] / whole["featbank"]["seconds"]
    asked_all, asked_tenth = (at["featbank"]["asked"] / size for at in (whole, tenth))
    first, second = found["first"], found["second"]
    print(
        "of a new process: first reading, which compares digests, "
        f"{first['seconds'] * 1e3:.0f} ms, later {second['seconds'] * 1e3:.0f} ms"
    )
    print(
        f"bytes asked for, of the array's: first {first['asked'] / size:.2f}, later "
        f"{asked_all:.2f}, a tenth {asked_tenth:.2f}"
    )
    held = rate >= RATE and asked_tenth <= TENTH and asked_all <= 1 + TENTH
    print("the claim held" if held else "the claim did NOT hold")
    if options.out:
        machine = {"cores": os.cpu_count(), "arch": platform.machine()}
        shape = {"rows": options.rows, "width": options.width}
        result = {"claim": __doc__.splitlines()[0], **shape, "ratio": rate, **found, "held": held}
        options.out.write_text(json.dumps({**result, "machine": machine}, indent=2) + "\n")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
