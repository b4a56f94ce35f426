"""Claim: featbank embeds images several times faster than today's script, at the machine's limit.

In figures, on two cores with AVX-512: EfficientNet-Lite0 at least 7 times as fast as the script in
float32 and 12 times in bfloat16, ResNet-50 1.9 and 3.5 times; everywhere at least 90 % of what the
cores can do (`ceiling`), and in float32 slower than no other package, right or wrong.

The script (`peers/naive.py`) is ImageFolder, DataLoader with 0 and with 2 workers, the eager
network under no_grad, np.concatenate. The other packages run as their documentation has it
(`peers/`), with the same weights; each is labelled with its versions, and its features are compared
with the script's, image by image. The images are real solar cells (PNG, 300 x 300), and JPEGs of
two sizes made of them: enlarged, coloured and given noise, until they weigh what photographs weigh.
EfficientNet-Lite0 has its real weights, the other networks random ones.

Each side is a process that loads once; then all take turns, and the medians over the rounds are of
the steady rate: images a second with packages imported, networks loaded and workers started.
featbank's is taken from the second batch of each of its workers on; where a DataLoader has workers,
their start counts, a fork of some hundredths of a second, for batches wait ready behind the first.
The sides that are slow embed fewer of the same images. Whole processes, start-up and the fewer
images together, stand in a column of their own; what the first image of a recipe costs, whose graph
is made once and kept, is told below it. A ceiling is what as many processes as cores reach that
only decode, or only run the network; both together make 1 / (1 / decoding + 1 / network).

    python benchmarks/extraction.py --make-environments     # once: what the other packages need
    python benchmarks/extraction.py --rounds 3 --out extraction.json
    python benchmarks/extraction.py --quick                 # two networks, no other packages
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PEERS = Path(__file__).resolve().parent / "peers"
EXACT = 1e-4  # relative error of every image: rounding in another order, and nothing else
CEILING = 0.9
ENVIRONMENTS = Path(sys.prefix) / "peers"
# Layers over the environment that runs this, so that all sides have the same torch. thingsvision
# imports TensorFlow, and needs numpy 1 as TensorFlow 2.15 does; its pin of torchvision 0.15.2 is
# left aside.
LAYERS: dict[str, list[list[str]]] = {
    "thingsvision": [
        ["tensorflow-cpu<2.16", "numpy<2"],
        ["--no-deps", "thingsvision==2.7.3", "torchtyping==0.1.5", "typeguard==2.13.3"],
    ],
    "embetter": [["--no-deps", "embetter==0.9.1", "diskcache", "model2vec"]],
    "img2vec": [["--no-deps", "img2vec_pytorch==1.0.2"]],
}


@dataclass(frozen=True)
class Case:
    """A network on images; `few` are embedded by slow sides, `many` by featbank."""

    model: str
    size: tuple[int, int] | None  # of JPEGs; None: the solar cells
    few: int
    many: int
    least: dict[str, float] = field(default_factory=dict)  # claimed ratios to the script

    @property
    def name(self) -> str:
        """The word for ``--only``."""
        return f"{self.model}-{'cells' if self.size is None else self.size[0]}"

    @property
    def images(self) -> str:
        """What the images are."""
        return "solar cells" if self.size is None else "{} x {} JPEGs".format(*self.size)


_SMALL, _LARGE = (500, 375), (2000, 1500)
_RESNET50 = {"featbank": 1.9, "featbank bfloat16": 3.5}
CASES = (
    Case("efficientnet_lite0", None, 192, 1024, {"featbank": 7.0, "featbank bfloat16": 12.0}),
    Case("resnet18", _SMALL, 128, 512),
    Case("resnet50", _SMALL, 64, 192, _RESNET50),
    Case("vit_b_16", _SMALL, 32, 96),
    Case("resnet18", _LARGE, 128, 256),
    Case("resnet50", _LARGE, 128, 192),
    Case("vit_b_16", _LARGE, 64, 96),
)
QUICK = ("efficientnet_lite0-cells", "resnet50-500")


@dataclass(frozen=True)
class Side:
    """A script of `peers/`, the words that it is given, and the layer that it runs in."""

    script: str
    words: dict[str, Any] = field(default_factory=dict)
    layer: str | None = None
    many: bool = False


def _side(script: str, **words: Any) -> Side:
    return Side(script, {"runtime": "auto", "precision": "float32", **words}, many=True)


NAIVE = ("script 0 workers", "script 2 workers")
OURS = {
    "featbank": {},
    "featbank torch": {"runtime": "torch"},
    "featbank bfloat16": {"precision": "bfloat16"},
}
SIDES = {
    NAIVE[0]: Side("naive.py", {"workers": 0}),
    NAIVE[1]: Side("naive.py", {"workers": 2}),
    "timm": Side("timm_loop.py"),
    "thingsvision": Side("with_thingsvision.py", layer="thingsvision"),
    "embetter": Side("with_embetter.py", layer="embetter"),
    "img2vec": Side("with_img2vec.py", layer="img2vec"),
    **{name: _side("with_featbank.py", **words) for name, words in OURS.items()},
    "ceiling: decoding": _side("ceiling.py", part="decoding"),
    "ceiling: network": _side("ceiling.py", part="network"),
    "ceiling: network bfloat16": _side("ceiling.py", part="network", precision="bfloat16"),
}
OTHERS = ("timm", "thingsvision", "embetter", "img2vec")


# Images


def cells() -> list[Path]:
    """Return the solar cells of the package elpv-dataset."""
    import elpv_dataset

    return sorted((Path(elpv_dataset.__file__).parent / "data" / "images").glob("*.png"))


def make_jpegs(folder: Path, size: tuple[int, int], n: int) -> list[Path]:
    """Return `n` JPEGs of solar cells, making those that are missing.

    Two cells are blended and coloured, and get noise; quality 90 makes 2.2 bits a pixel of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"image{number:04d}.jpg" for number in range(n)]
    files = cells()
    width, height = size
    noise = np.random.default_rng(0).normal(0, 8, (height + 64, width + 64, 3)).astype(np.float32)
    for number, path in enumerate(paths):
        if path.exists():
            continue
        random = np.random.default_rng(number)
        layers = []
        for file in (files[number], files[-1 - number]):
            left, top = random.integers(0, 100, 2)
            part = Image.open(file).convert("L").crop((left, top, left + 200, top + 150))
            layers.append(np.asarray(part.resize(size, Image.Resampling.BICUBIC), np.float32))
        mix = random.uniform(0.2, 0.8, 3).astype(np.float32)
        y, x = random.integers(0, 64, 2)
        pixels = layers[0][..., None] * mix + layers[1][..., None] * (1 - mix)
        pixels += noise[y : y + height, x : x + width]
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def make_folders(case: Case, scratch: Path) -> dict[str, Path]:
    """Make folders of one, few and many images, one class each; the fewer are the first."""
    if case.size is None:
        files = cells()
    else:
        files = make_jpegs(scratch / "jpegs" / str(case.size[0]), case.size, case.many)
    folders = {}
    for word, count in (("one", 1), ("few", case.few), ("many", case.many)):
        folders[word] = scratch / case.name / word
        (folders[word] / "class").mkdir(parents=True)
        for file in files[:count]:
            (folders[word] / "class" / file.name).symlink_to(file)
    return folders


# Sides


class Process:
    """A side's process; see `peers/side.py`."""

    def __init__(self, side: Side, case: dict[str, Any], layer: Path | None) -> None:
        environment = dict(os.environ)
        if layer is not None:
            environment["PYTHONPATH"] = str(layer)
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long as the process lives)
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, PEERS / side.script, json.dumps({**case, **side.words})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )
        self.ready = self._answer()
        self.startup = time.perf_counter() - began

    def run(self, out: Path) -> dict[str, Any]:
        """Embed once more."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{out}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.process.wait()
        self.log.seek(0)
        lines = [text for text in self.log.read().splitlines() if text.strip()]
        return {"skipped": f"failed: {lines[-1] if lines else self.process.returncode}"}

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def whole_process(case: dict[str, Any], words: dict[str, Any], scratch: Path) -> float:
    """Return the seconds of ``featbank extract`` over the few images."""
    model, weights = case["model"], Path(case["weights"]) / "torchvision.pth"
    command = ["extract", "--model", model, "--runtime", words["runtime"]]
    command += ["--precision", words["precision"]]
    if model != "efficientnet_lite0":
        command += ["--weights", str(weights)]
    with tempfile.TemporaryDirectory(dir=scratch) as bank:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "featbank", *command, "--bank", bank, case["few"]],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - began


def measure(
    case: Case, sides: Sequence[str], rounds: int, scratch: Path, environments: Path
) -> dict[str, Any]:
    """Measure all sides of a case in turn."""
    folders = make_folders(case, scratch)
    weights = scratch / "weights" / case.model
    if not weights.exists():
        weights.mkdir(parents=True)
        subprocess.run([sys.executable, PEERS / "networks.py", case.model, weights], check=True)
    given = {
        "model": case.model,
        "weights": str(weights),
        **{word: str(folder) for word, folder in folders.items()},
    }
    found: dict[str, dict[str, Any]] = {}
    processes: dict[str, Process] = {}
    features: dict[str, np.ndarray] = {}
    try:
        for name in sides:
            side = SIDES[name]
            layer = environments / side.layer if side.layer else None
            if layer is not None and not layer.is_dir():
                found[name] = {"skipped": "not installed; see --make-environments"}
                continue
            folder = given["many" if side.many else "few"]
            process = Process(side, {**given, "folder": folder}, layer)
            found[name] = {**process.ready, "startup": process.startup, "rates": [], "seconds": []}
            if "skipped" in process.ready:
                process.close()
            else:
                processes[name] = process
        for number in range(rounds):
            for name, process in list(processes.items()):
                out = scratch / "features.npy"
                answer = process.run(out)
                if "skipped" in answer:
                    found[name] |= answer
                    processes.pop(name).close()
                    continue
                found[name]["rates"].append(answer.pop("rate"))
                found[name]["seconds"].append(answer.pop("seconds"))
                found[name] |= answer
                if number == 0 and out.exists():
                    features[name] = np.load(out)[: case.few]
                out.unlink(missing_ok=True)
    finally:
        for process in processes.values():
            process.close()
    for name in processes:
        one = found[name]
        one["rate"] = statistics.median(one["rates"])
        if name in OURS:
            one["whole"] = whole_process(given, SIDES[name].words, scratch)
        elif not name.startswith("ceiling"):
            one["whole"] = one["startup"] + statistics.median(one["seconds"])
    compare(found, features)
    return {
        "case": case.name, "model": case.model, "images": case.images, "few": case.few,
        "many": case.many, "sides": found, "claims": claims(case, found),
    }  # fmt: skip


def compare(found: dict[str, dict[str, Any]], features: dict[str, np.ndarray]) -> None:
    """Add to each side what its rates and its features are beside the others', round by round."""
    rates = {name: np.array(one["rates"]) for name, one in found.items() if "rate" in one}
    scripts = [name for name in NAIVE if name in rates]
    script = max(scripts, key=lambda name: found[name]["rate"], default=None)
    reference = next((features[name] for name in scripts), None)
    for name, one in found.items():
        if name not in rates or name.startswith("ceiling"):
            continue
        if script is not None:
            one["ratio"] = float(np.median(rates[name] / rates[script]))
        network = rates.get(f"ceiling: {name.replace('featbank', 'network')}")
        if network is not None and "ceiling: decoding" in rates:
            inverse = 1 / rates["ceiling: decoding"] + 1 / network
            one["of_ceiling"] = float(np.median(rates[name] * inverse))
        if reference is not None:
            if features[name].shape != reference.shape:
                one["error"] = {"max": float("inf"), "median": float("inf")}
                continue
            norms = np.linalg.norm(reference, axis=1)
            error = np.linalg.norm(features[name] - reference, axis=1) / norms
            one["error"] = {"max": float(error.max()), "median": float(np.median(error))}


def claims(case: Case, found: dict[str, dict[str, Any]]) -> dict[str, bool | None]:
    """Return what held of what is claimed; None where a side that it needs was not asked for."""
    held: dict[str, bool | None] = {}

    def claim(words: str, side: str, key: str, holds: Callable[[Any], bool]) -> None:
        one = found.get(side)
        if one is None or (key not in one and "rate" in one):
            held[f"{side}: {words}"] = None
        else:
            held[f"{side}: {words}"] = key in one and holds(one[key])

    for side, least in case.least.items():
        claim(f"at least {least:g} times the script", side, "ratio", lambda r, k=least: r >= k)
    for side in ("featbank", "featbank bfloat16"):
        claim(f"at least {CEILING:.0%} of the ceiling", side, "of_ceiling", lambda p: p >= CEILING)
    for side in ("featbank", "featbank torch"):
        claim(f"features within {EXACT:g}", side, "error", lambda e: e["max"] <= EXACT)
    for name in OTHERS:
        one = found.get(name, {})
        if "rate" in one:
            claim(f"not slower than {name}", "featbank", "rate", lambda r, o=one["rate"]: r >= o)
    return held


def accuracies(scratch: Path, n: int | None) -> dict[str, Any]:
    """Return the 5-fold accuracy on `n` solar cells by what features are computed and kept in."""
    import featbank

    folder, data = scratch / "labelled", cells()[0].parents[1]
    lines = [line for line in (data / "labels.csv").read_text().splitlines() if line.strip()]
    chosen = lines[:: max(1, len(lines) // n)][:n] if n else lines
    for name, probability, _ in map(str.split, chosen):
        label = folder / ("defective" if float(probability) > 0.5 else "functional")
        label.mkdir(parents=True, exist_ok=True)
        (label / Path(name).name).symlink_to(data / name)
    found = {}
    reference = None
    for precision in ("float32", "bfloat16"):
        bank = featbank.extract(
            folder,
            "efficientnet_lite0",
            scratch / f"bank-{precision}",
            squash=True,
            precision=precision,
        )
        features = bank.features()
        kept = {precision: features}
        if reference is None:
            reference = features
            kept["float32, kept as float16"] = features.astype(np.float16).astype(np.float32)
        for name, values in kept.items():
            result = featbank.cross_validate(values, bank.labels, "logreg", cv=5, tune=False)
            error = np.linalg.norm(values - reference, axis=1) / np.linalg.norm(reference, axis=1)
            found[name] = {
                "accuracy": result.heads[0].metrics["accuracy"].to_dict(),
                "median_error": float(np.median(error)),
            }
    return found


# Words


def show(result: dict[str, Any]) -> None:
    """Print a case's table."""
    few = result["few"]
    print(f"\n{result['model']} on {result['images']}; whole processes over {few} of them")
    print(
        f"{'':26}{'images/s':>9}{'x script':>10}{'of ceiling':>12}{'whole':>9}   error max, median"
    )
    for name, one in result["sides"].items():
        if "rate" not in one:
            print(f"{name:26}{one.get('skipped', 'no round')}")
            continue
        ratio = f"{one['ratio']:10.2f}" if "ratio" in one else f"{'':10}"
        part = f"{one['of_ceiling']:12.0%}" if "of_ceiling" in one else f"{'':12}"
        whole = f"{one['whole']:7.1f} s" if "whole" in one else f"{'':9}"
        error = "   {max:.1e}, {median:.1e}".format(**one["error"]) if "error" in one else ""
        if name != "featbank bfloat16" and one.get("error", {}).get("max", 0) > EXACT:
            error += "  OTHER FEATURES"
        print(f"{name:26}{one['rate']:9.1f}{ratio}{part}{whole}{error}")
    for name, one in result["sides"].items():
        if "first_image_seconds" in one:
            print(f"  {name}: the first image of all took {one['first_image_seconds']:.1f} s")
    for claim, held in result["claims"].items():
        print(f"  {claim}: {'not measured' if held is None else 'yes' if held else 'NO'}")
    sys.stdout.flush()


def show_accuracies(found: dict[str, Any]) -> None:
    """Print what precision does to a head."""
    print("\nefficientnet_lite0 on solar cells, logreg, 5 folds")
    print(f"{'':26}{'accuracy':>9}{'95 % interval':>18}{'median error':>15}")
    for name, one in found.items():
        low, high = one["accuracy"]["ci95"]
        print(
            f"{name:26}{one['accuracy']['mean']:9.4f}{low:10.4f}..{high:.4f}"
            f"{one['median_error']:15.1e}"
        )


def show_versions(results: Sequence[dict[str, Any]]) -> None:
    """Print each side's packages."""
    versions: dict[str, dict[str, str]] = {}
    for result in results:
        for name, one in result["sides"].items():
            if not name.startswith("ceiling"):
                versions.setdefault(name, one.get("versions") or {})
    print()
    for name, packages in versions.items():
        if packages:
            print(f"{name:26}{', '.join(f'{p} {v}' for p, v in packages.items())}")


def make_environments(folder: Path) -> None:
    """Install what each other package needs into a folder of its own."""
    for name, steps in LAYERS.items():
        for packages in steps:
            command = ["-m", "pip", "install", "--quiet", "--target", folder / name, *packages]
            subprocess.run([sys.executable, *command], check=True)


def _words(text: str, valid: Sequence[str]) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in valid:
            raise SystemExit(f"{word!r} is not one of {', '.join(valid)}")
    return words


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [case.name for case in CASES]
    parser.add_argument("--only", metavar="CASE,...", help=", ".join(names))
    parser.add_argument("--sides", metavar="SIDE,...", help=", ".join(SIDES))
    parser.add_argument(
        "--images", type=int, help="the most that a side embeds (featbank: 96 at least)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two networks, no other packages")
    parser.add_argument("--no-accuracy", action="store_true", help="leave out the 5-fold scores")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, metavar="DIR")
    parser.add_argument(
        "--make-environments", action="store_true", help="install the other packages there"
    )
    parser.add_argument("--scratch", type=Path, help="a folder with room for 2 GB")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args()
    if options.make_environments:
        make_environments(options.environments)
        return
    chosen = _words(options.only, names) if options.only else QUICK if options.quick else names
    sides = _words(options.sides, list(SIDES)) if options.sides else list(SIDES)
    if options.quick:
        sides = [side for side in sides if side not in OTHERS]
    results = []
    scores = None
    print(f"{os.cpu_count()} cores, {platform.machine()}, medians of {options.rounds} rounds")
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")  # graphs are made anew
        for case in CASES:
            if case.name not in chosen:
                continue
            if options.images:
                few = min(case.few, options.images)
                many = max(96, min(case.many, options.images))
                case = Case(case.model, case.size, few, many, case.least)
            results.append(
                measure(case, sides, options.rounds, scratch, options.environments.resolve())
            )
            show(results[-1])
        if not options.no_accuracy:
            scores = accuracies(scratch, options.images)
            show_accuracies(scores)
    show_versions(results)
    values = [value for result in results for value in result["claims"].values()]
    held = all(value is not False for value in values)
    print("the claim held" if held else "the claim did NOT hold", end="")
    print(", as far as it was measured" if held and None in values else "")
    if options.out:
        machine = {"cores": os.cpu_count(), "arch": platform.machine()}
        document = {
            "claim": __doc__.splitlines()[0], "rounds": options.rounds, "results": results,
            "accuracy": scores, "held": held, "machine": machine,
        }  # fmt: skip
        options.out.write_text(json.dumps(document, indent=2) + "\n")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
