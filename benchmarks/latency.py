"""Claim: one image is classified from the shell in 1.5 s, and in a warm process in under 0.1 s.

Measured with a linear head and a network whose graph is in the cache, whole processes, in turn with
what one writes without featbank: import torch and torchvision, build the network, load its weights
(the same file), unpickle the same head, predict. Beside them stand the RBF SVM and the MLP, the
parts of which the time consists, and two more predictions in a process that has done one: decoding
in a worker process under a watchdog, as is the default, and decoding here (``workers=0``).

    python benchmarks/latency.py --model resnet18 --rounds 5 --out latency.json
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
from PIL import Image

HEADS = ("logreg", "svm", "mlp")
LINEAR = "logreg"
SHELL, WARM = 1.5, 0.1  # seconds
CLASSES, IMAGES = "abc", 60
PARTS = ("import", "classifier", "network", "decoding", "running", "head")

NAIVE = """
import sys
import joblib, torch, torchvision
from PIL import Image
name, weights, head, path = sys.argv[1:]
network = getattr(torchvision.models, name)(weights=None)
network.load_state_dict(torch.load(weights, weights_only=True))
last = "fc" if hasattr(network, "fc") else "classifier"
setattr(network, last, torch.nn.Identity())
network.eval()
transform = torchvision.transforms.Compose([
    torchvision.transforms.Resize(256),
    torchvision.transforms.CenterCrop(224),
    torchvision.transforms.ToTensor(),
    torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
])
with torch.no_grad():
    features = network(transform(Image.open(path).convert("RGB"))[None]).numpy()
print(joblib.load(head).predict(features)[0])
"""

IN_PARTS = """
import json, sys, time
laps = [time.perf_counter()]
lap = lambda: laps.append(time.perf_counter())
from featbank.cli import cli
from featbank.classifier import Classifier
from featbank.data.decode import decode
from featbank.extraction.loader import fastest
from featbank.extraction.run import Settings
from featbank.workflows.predict import classifier_model, predict
lap()
classifier = Classifier.load(sys.argv[1], plain=True)
lap()
model = classifier_model(classifier)
network = fastest(model.loader, classifier.columns, device="cpu").load("cpu")
lap()
with open(sys.argv[2], "rb") as file:
    pixels = network.prepare(decode(file.read(), model.policy))
lap()
(features,) = network.run(pixels[None], classifier.columns).values()
lap()
label = classifier.predict(features)[0]
lap()
warm = []
for settings in (Settings(), Settings(workers=0)):
    took = []
    for _ in range(6):
        start = time.perf_counter()
        assert predict(classifier, sys.argv[2], settings=settings).predictions[0].label == label
        took.append(time.perf_counter() - start)
    warm.append(sorted(took[1:])[2])
print(json.dumps({"laps": laps, "warm": warm, "label": label}))
"""


def run(*words: str | Path) -> tuple[float, float, str]:
    """Run Python; return its seconds, its and its workers' CPU seconds, and what it printed."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system
    return seconds, cpu - before.children_user - before.children_system, done.stdout


def make_images(folder: Path) -> Path:
    """Write photographs of nothing, of 500 x 375 pixels, whose classes differ in brightness."""
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        name = CLASSES[number % len(CLASSES)]
        coarse = random.integers(0, 256, (15, 20, 3), np.uint8) // (1 + number % len(CLASSES))
        path = folder / name / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(path)
    return path


def prepare(scratch: Path, model: str) -> Path:
    """Make weights, images, a bank, classifiers and their pickled heads; return an image."""
    import joblib
    import torch
    import torchvision

    from featbank import Classifier

    torch.manual_seed(0)
    weights = scratch / "weights.pth"
    torch.save(getattr(torchvision.models, model)(weights=None).state_dict(), weights)
    image = make_images(scratch / "images")
    time.sleep(2.5)  # younger files are digested again, for they may change within the clock's tick
    bank = ("--bank", scratch / "bank")
    words = ("--model", model, "--weights", weights, *bank)
    run("-m", "featbank", "extract", scratch / "images", *words, "--json")
    for head in HEADS:
        fit = ("--head", head, "--no-tune", "--jobs", "1", "--out", scratch, "--json")
        run("-m", "featbank", "fit", *bank, *fit)
        joblib.dump(Classifier.load(scratch / f"{head}.skops").head, scratch / f"{head}.joblib")
    return image


def measure(scratch: Path, model: str, rounds: int) -> dict[str, dict[str, float]]:
    """Measure every head on both sides; return the medians in seconds."""
    image = prepare(scratch, model)
    seconds: dict[str, dict[str, list[float]]] = {head: {} for head in HEADS}
    for number in range(rounds + 1):  # the first round brings files into the system's cache
        for head, found in seconds.items():
            classifier = scratch / f"{head}.skops"
            shell, shell_cpu, said = run("-m", "featbank", "predict", classifier, image, "--json")
            label = json.loads(said)["predictions"][0]["label"]
            pickled = scratch / f"{head}.joblib"
            naive, naive_cpu, said = run(
                "-c", NAIVE, model, scratch / "weights.pth", pickled, image
            )
            parts = json.loads(run("-c", IN_PARTS, classifier, image)[-1])
            if {said.strip(), parts["label"]} != {label}:
                raise SystemExit(f"{head}: the sides disagree about the image")
            if number:
                took = dict(zip(PARTS, np.diff(parts["laps"]).tolist(), strict=True))
                took |= {"shell": shell, "naive": naive}
                took |= {"shell cpu": shell_cpu, "naive cpu": naive_cpu}
                took |= dict(zip(("warm", "warm here"), parts["warm"], strict=True))
                for name, value in took.items():
                    found.setdefault(name, []).append(value)
    return {
        head: {name: statistics.median(values) for name, values in found.items()}
        for head, found in seconds.items()
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18", help="one of torchvision's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["FEATBANK_CACHE"] = os.fspath(Path(name, "cache"))
        median = measure(Path(name), options.model, options.rounds)
    columns = ("naive", "naive cpu", "shell", "shell cpu", *PARTS, "warm", "warm here")
    print(f"{options.model}, milliseconds, medians of {options.rounds}")
    print(f"{'':8}" + "".join(f"{column:>11}" for column in columns))
    for head, took in median.items():
        print(f"{head:8}" + "".join(f"{1000 * took[column]:11.0f}" for column in columns))
    held = median[LINEAR]["shell"] <= SHELL and median[LINEAR]["warm here"] <= WARM
    print("naive, shell: whole processes. import to head: what the latter does, without a worker.")
    print("warm: one more image in the same process, decoded by a worker; warm here: without one.")
    print("the claim held" if held else "the claim did NOT hold")
    if options.out:
        machine = {"cores": os.cpu_count(), "arch": platform.machine()}
        result = {
            "claim": __doc__.splitlines()[0], "model": options.model, "median": median,
            "held": held, "machine": machine,
        }  # fmt: skip
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
