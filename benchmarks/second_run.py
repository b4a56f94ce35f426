"""Claim: a second run over unchanged files costs a walk: 100,000 files in 0.8 s, a million in 7 s.

Measured beyond ``featbank --help``, with memory under 1 GB, whole processes, in turn with a plain
walk that asks for each file's ``stat``. Files, names and times are real; the bank's digests and
features are made up, for embedding a million images would take hours, and a second run reads
neither images nor features. Also measured: the same with one file in a hundred changed, as far as
`featbank status` (which plans and reads no image).

    python benchmarks/second_run.py --files 10000,100000,1000000 --rounds 3 --out second_run.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MODEL = ("--model", "efficientnet_lite0")
LIMITS = {100_000: 0.8, 1_000_000: 7.0}  # seconds
MEMORY = 1e9  # bytes
PER_FOLDER = 1000
SHARD_ROWS = 1024

WALK = """
import os, sys
n = 0
for folder, _, files in os.walk(sys.argv[1]):
    for name in files:
        os.stat(os.path.join(folder, name))
        n += 1
assert n == int(sys.argv[2])
"""


def make_files(folder: Path, n: int) -> None:
    """Make `n` files of a few bytes, a thousand to a folder."""
    for start in range(0, n, PER_FOLDER):
        part = folder / f"class{start // PER_FOLDER % 20:02d}" / f"{start // PER_FOLDER:04d}"
        part.mkdir(parents=True)
        for number in range(start, min(start + PER_FOLDER, n)):
            path = os.fspath(part / f"image_{number:08d}.jpg")
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def fill_bank(bank: Path, folder: Path) -> None:
    """Write the bank that extracting `folder` would have written, with made-up features."""
    from featbank.backbones import Column
    from featbank.backbones.request import Request
    from featbank.backbones.resolution import resolve
    from featbank.bank.bank import Bank
    from featbank.data.index import IndexedSource
    from featbank.data.sources import open_source, scan_all

    recipe = resolve(Request("efficientnet_lite0"))
    source = open_source(folder)
    (listing,) = scan_all([source])
    n = len(listing)
    keys = np.random.default_rng(0).integers(0, 256, (n, 32), np.uint8)
    made = Bank.create(bank)
    made.register(recipe, {})
    for start in range(0, n, SHARD_ROWS):
        some = keys[start : start + SHARD_ROWS]
        made.seal(recipe, some, {Column(): np.zeros((len(some), 8), np.float32)})
    indexed = IndexedSource.new(source.name, os.fsencode(source.root), listing)
    indexed.digest[:] = keys
    indexed.known[:] = True
    made.update([indexed], documents=[source.to_dict()])


def measure(*command: str | Path) -> tuple[float, float, str]:
    """Run a command; return seconds, peak memory in bytes, and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(map(str, command))} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * unit, said


def measure_all(n: int, rounds: int, scratch: Path, keep: Path | None) -> dict[str, object]:
    """Measure everything at `n` files."""
    folder, bank = (keep or scratch) / f"images-{n}", scratch / "bank"
    if not folder.exists():
        making = folder.with_name(f"{folder.name}.part")
        make_files(making, n)
        making.rename(folder)
        time.sleep(2.5)  # younger files are read again, for they may change within the clock's tick
    os.environ["FEATBANK_CACHE"] = os.fspath(scratch / "cache")
    fill_bank(bank, folder)
    time.sleep(2.5)  # the same of shards
    extract = ("-m", "featbank", "extract", *MODEL, "--bank", bank, "--json", folder)
    assert json.loads(measure(*extract)[2])["reused"] == n  # remembers which shards are verified
    sides = {
        "walk": ("-c", WALK, folder, str(n)),
        "help": ("-m", "featbank", "--help"),
        "second run": extract,
    }
    seconds: dict[str, list[float]] = {side: [] for side in [*sides, "1 % changed"]}
    memory = 0.0
    for _ in range(rounds):
        for side, command in sides.items():
            took, peak, said = measure(*command)
            seconds[side].append(took)
            if side == "second run":
                memory = max(memory, peak)
                counts = json.loads(said)
                assert (counts["computed"], counts["reused"]) == (0, n), counts
    for number in range(0, n, 100):
        part = number // PER_FOLDER
        path = folder / f"class{part % 20:02d}" / f"{part:04d}" / f"image_{number:08d}.jpg"
        path.write_bytes(b"changed")
    for _ in range(rounds):
        took, _, said = measure(
            "-m", "featbank", "status", *MODEL, "--bank", bank, "--json", folder
        )
        assert json.loads(said)["changed"] == -(-n // 100)
        seconds["1 % changed"].append(took)
    median = {side: statistics.median(values) for side, values in seconds.items()}
    beyond = median["second run"] - median["help"]
    held = beyond <= LIMITS.get(n, np.inf) and memory < MEMORY
    return {
        "files": n, "seconds": seconds, "median": median, "beyond_help": beyond,
        "memory": memory, "held": bool(held),
    }  # fmt: skip


def main() -> None:
    """Measure at each number of files, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", default="10000,100000,1000000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="a folder with room for that many files")
    parser.add_argument("--keep", type=Path, help="where files are kept for further runs")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args()
    results = []
    print(f"{'files':>9}{'walk + stat':>13}{'second run':>12}{'1 % changed':>13}{'memory':>10}")
    for n in map(int, options.files.split(",")):
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            found = measure_all(n, options.rounds, Path(name), options.keep)
        results.append(found)
        median = found["median"]
        print(
            f"{n:9,}{median['walk']:11.2f} s{found['beyond_help']:10.2f} s"
            f"{median['1 % changed'] - median['help']:11.2f} s{found['memory'] / 1e6:7.0f} MB",
            flush=True,
        )
    held = all(found["held"] for found in results)
    print("second run and 1 % changed: seconds beyond featbank --help; medians")
    print("the claim held" if held else "the claim did NOT hold")
    if options.out:
        machine = {"cores": os.cpu_count(), "arch": platform.machine()}
        result = {"claim": __doc__.splitlines()[0], "results": results, "held": held}
        options.out.write_text(json.dumps({**result, "machine": machine}, indent=2) + "\n")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
