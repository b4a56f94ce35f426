"""Claim: embedding 100,000 images takes at most 10 % more memory than embedding 10,000.

Peak memory of `featbank extract`, of all its processes together (proportional set sizes, sampled),
with the same settings over small PNGs of random pixels and a small random network. Also told: the
peaks of the parent, which knows of every image, and of the largest worker. Needs Linux's /proc.

    python benchmarks/memory.py --images 10000,100000 --out memory.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GROWTH = 1.1
PER_FOLDER = 1000
INTERVAL = 0.2  # seconds between two samples


def make_images(folder: Path, n: int, side: int) -> None:
    """Make `n` PNGs, a thousand to a folder."""
    pixels = np.random.default_rng(0)
    for number in range(n):
        part = folder / f"class{number // PER_FOLDER:04d}"
        if number % PER_FOLDER == 0:
            part.mkdir(parents=True)
        image = Image.fromarray(pixels.integers(0, 256, (side, side, 3), np.uint8))
        image.save(part / f"image_{number:08d}.png", compress_level=1)


def family(process: int) -> list[int]:
    """Return a process and all that come from it."""
    found = [process]
    for one in found:
        with contextlib.suppress(OSError):  # it has ended
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def kilobytes(path: str, name: str) -> int:
    """Return a number of a file of /proc; 0 if the process has ended."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def measure(folder: Path, bank: Path, n: int, options: argparse.Namespace) -> dict[str, Any]:
    """Embed a folder in a new process; return peaks in bytes."""
    network = ("--model", options.model, "--weights", "none", "--input-size", str(options.side))
    command = ["-m", "featbank", "extract", *network, "--workers", str(options.workers), "--json"]
    process = subprocess.Popen(
        [sys.executable, *command, "--bank", os.fspath(bank), os.fspath(folder)],
        stdout=subprocess.PIPE,
    )
    together, peaks, start = 0, {process.pid: 0}, time.perf_counter()
    while process.poll() is None:
        members = family(process.pid)
        sizes = [kilobytes(f"/proc/{one}/smaps_rollup", "Pss") for one in members]
        together = max(together, sum(sizes))
        for one in members:
            peaks[one] = max(peaks.get(one, 0), kilobytes(f"/proc/{one}/status", "VmHWM"))
        time.sleep(INTERVAL)
    assert process.stdout is not None
    said = json.loads(process.stdout.read())
    if process.returncode or said["computed"] != n:
        raise SystemExit(f"featbank extract computed {said}")
    parent = peaks.pop(process.pid)
    return {
        "images": n,
        "seconds": time.perf_counter() - start,
        "together": together * 1024,
        "parent": parent * 1024,
        "worker": max(peaks.values(), default=0) * 1024,
    }


def measure_new(n: int, options: argparse.Namespace) -> dict[str, Any]:
    """Make images, embed them, and remove them."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        make_images(Path(name) / "images", n, options.side)
        return measure(Path(name) / "images", Path(name) / "bank", n, options)


def main() -> None:
    """Measure at each number of images, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="10000,100000")
    parser.add_argument("--model", default="resnet18", help="of random weights")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where there is room for that many files")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args()
    parts = ("together", "parent", "worker")
    results: list[dict[str, Any]] = []
    measure_new(PER_FOLDER, options)  # exports the network
    print(f"{'images':>9}{'together':>12}{'parent':>12}{'worker':>12}{'seconds':>10}")
    for n in sorted(map(int, options.images.split(","))):
        found = measure_new(n, options)
        results.append(found)
        peaks = "".join(f"{found[part] / 1e6:9.0f} MB" for part in parts)
        print(f"{n:9,}{peaks}{found['seconds']:8.0f} s", flush=True)
    few, many = results[0], results[-1]
    more = max(many["images"] - few["images"], 1)
    growth = {part: many[part] / few[part] for part in parts}
    each = {part: (many[part] - few[part]) / more for part in parts}
    for part in parts:
        print(f"{part}: {growth[part]:.3f} times as much, {each[part]:.0f} bytes an image")
    held = growth["together"] <= GROWTH
    print("the claim held" if held else "the claim did NOT hold")
    if options.out:
        machine = {"cores": os.cpu_count(), "arch": platform.machine()}
        result = {
            "claim": __doc__.splitlines()[0], "results": results, "growth": growth,
            "bytes_an_image": each, "held": held, "machine": machine,
        }  # fmt: skip
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
