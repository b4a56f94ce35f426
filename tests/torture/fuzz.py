"""Fuzzing of the parsers that read strangers' bytes: images, shards, indexes, classifiers.

Guided by coverage: an input that runs a line of Python which none ran before, in featbank or in
what it reads with, joins the corpus that further ones are made from. (What is compiled is not seen;
HDF5, libjpeg and the like are led by the structure-aware mutators instead.) Every input is made
from the seed, and those that fail are kept.
"""

from __future__ import annotations

import functools
import hashlib
import io
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import skops.io
from PIL import Image

from featbank import Bank, classifier, hdf5
from featbank.backbones.recipe import Column, Preprocess, Recipe
from featbank.bank.shard import read_shard
from featbank.classifier import Classifier
from featbank.data import decode as decoding
from featbank.data.indexfile import read_index
from featbank.errors import BankError, ClassifierError, ImageError
from featbank.evaluation import fit_final
from featbank.heads import archive, soundness
from tests.bank import builders
from tests.torture.harness import Harness, Mutation, Trials
from tests.torture.mutators import mutate, mutate_archive
from tests.torture.sandbox import Result, attempts, check_refusal

_ROUND = 300  # inputs between two looks at what they reached
_CORPUS = 400
_ALL_TRACED = 3000  # inputs of a parser, before only every fourth one is watched
_LIMITS = decoding.DecodeLimits(max_pixels=1 << 20)
_X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


@dataclass
class Parser:
    """One of the parsers, with what it is fed.

    Attributes
    ----------
    name : str
    corpus : list of bytes
        At first small, valid inputs.
    change : callable
        Takes an input, a generator and the corpus; returns another input, resealed.
    parse : callable
        Takes the input and a path to write it to; returns what came of it in a word, and lets out
        only what no parser may.
    seen : set of (str, int)
        Lines of Python that were reached: file and number.
    """

    name: str
    corpus: list[bytes]
    change: Callable[[bytes, random.Random, list[bytes]], bytes]
    parse: Callable[[bytes, Path], str]
    seen: set[tuple[str, int]] = field(default_factory=set)


# Images


def image_seeds() -> list[bytes]:
    """Return small images of every format and mode that is read."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8))
    grey, palette = rgb.convert("L"), rgb.convert("P")
    deep = Image.fromarray(rng.integers(0, 65536, (6, 7)).astype(np.uint16))
    real = Image.fromarray(rng.random((6, 7)).astype(np.float32))
    alpha = rgb.copy()
    alpha.putalpha(grey)
    turned = Image.Exif()
    turned[0x0112] = 6
    ways: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "png", {}), (grey, "png", {}), (alpha, "png", {}), (deep, "png", {}),
        (palette, "png", {"transparency": 3}), (rgb.convert("1"), "png", {}),
        (rgb, "jpeg", {}), (grey, "jpeg", {}), (rgb, "jpeg", {"progressive": True}),
        (rgb, "jpeg", {"exif": turned, "comment": b"hello"}), (rgb.convert("CMYK"), "jpeg", {}),
        (rgb, "webp", {}), (alpha, "webp", {"lossless": True}), (palette, "gif", {}),
        (palette, "gif", {"save_all": True, "append_images": [palette], "transparency": 1}),
        (rgb, "bmp", {}), (palette, "bmp", {}), (rgb, "ppm", {}), (grey, "ppm", {}),
        (rgb, "tiff", {}), (deep, "tiff", {}), (real, "tiff", {}),
        (palette, "tiff", {"compression": "tiff_lzw"}),
        (rgb, "tiff", {"compression": "tiff_adobe_deflate"}),
        (rgb, "tiff", {"compression": "jpeg"}),
    ]  # fmt: skip
    seeds = []
    for image, kind, options in ways:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        seeds.append(stream.getvalue())
    return seeds


def change_image(data: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """Change an image; most of the time, make a PNG's checksums right again."""
    changed = mutate(data, rng, corpus)
    return _png_repaired(changed) if rng.random() < 0.8 else changed


def _png_repaired(data: bytes) -> bytes:
    from zlib import crc32

    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    changed, at = bytearray(data), 8
    while at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = crc32(changed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(changed)


def parse_image(data: bytes, path: Path) -> str:
    """Decode; the result is an RGB image of the declared size, or the file is refused."""
    try:
        image = decoding.decode(data, limits=_LIMITS)
    except ImageError as error:
        return f"refused: {error}"
    assert image.mode == "RGB", f"decoded to mode {image.mode}"
    assert len(image.tobytes()) == 3 * image.width * image.height > 0, "pixels are missing"
    return "read"


# Shards and indexes


def bank_seeds(folder: Path) -> tuple[list[bytes], list[bytes]]:
    """Return the bytes of shards, and of indexes."""
    builders.filled(folder / "one", shards=3)
    small = Bank.create(folder / "two")
    small.update([builders.source("s", {f"{i}.png": str(i) for i in range(3)})])
    shards = [path.read_bytes() for path in sorted(folder.glob("*/*/*/*.h5"))]
    return shards, [path.read_bytes() for path in sorted(folder.glob("*/index.h5"))]


def change_shard(data: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """Change a shard; its name, the digest, is the reader's caller's to check."""
    return mutate(data, rng, corpus)


def change_index(data: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """Change what follows the user block, and seal it again."""
    rest = mutate(data[hdf5.USER_BLOCK :], rng, [other[hdf5.USER_BLOCK :] for other in corpus])
    return bytes(hdf5.seal(bytearray(hdf5.USER_BLOCK) + rest))


def parse_shard(data: bytes, path: Path) -> str:
    """Read a shard and all its features: numbers that the file holds, or it is refused."""
    path.write_bytes(data)
    try:
        shard = read_shard(str(path))
    except BankError as error:
        return f"refused: {check_refusal(error)}"
    assert shard.keys.tobytes() in data, "keys that the file does not hold"
    for column in shard.columns:
        values = shard.features(column)
        assert values.shape[0] == len(shard.keys), "features without keys"
        assert values.tobytes() in data, "features that the file does not hold"
    return "read"


def parse_index(data: bytes, path: Path) -> str:
    """Read an index: rows that fit together, or it is refused."""
    path.write_bytes(data)
    try:
        hdf5.check_seal(str(path))
        with hdf5.open_inspected(str(path)) as file:
            index = read_index(file)
    except BankError as error:
        return f"refused: {check_refusal(error)}"
    for source in index.sources.values():
        assert isinstance(source.root, bytes), "the root is no path"
        for name in source.listing.names:
            assert name in data, "a name that the file does not hold"
        texts = (source.listing.label, source.listing.split, source.listing.group, source.failure)
        for text in (*texts, source.failure_under, *source.listing.extra.values()):
            assert len(text.tolist()) == len(source), "a column of another length"
        assert source.digest.tobytes() in data, "digests that the file does not hold"
        assert len(source.known) == len(source.listing.stat) == len(source)
    return "read"


# Classifiers


@functools.cache
def classifier_seeds() -> tuple[bytes, ...]:
    """Return small classifiers: every kind of head, some calibrated, some of several labels."""
    recipe = Recipe(
        backbone="tiny",
        source="module",
        weights="ab" * 32,
        preprocess=Preprocess(36, "short", (32, 32), "bilinear", (0.5,) * 3, (0.2,) * 3),
    )
    three = np.array(["ant", "bee", "cat"])[np.arange(len(_X)) % 3]
    two = np.array(["ant", "bee"])[np.arange(len(_X)) % 2]
    several = [set(("ant", "bee", "cat")[: i % 4]) for i in range(len(_X))]
    few = {"params": {"max_epochs": 1, "hidden": 3}}
    bare = {"calibrate": False}
    both = {"calibrate": "temperature", "threshold": "f1"}
    ways: list[tuple[str, Any, dict[str, Any]]] = [
        ("logreg", three, {}), ("svm", three, bare), ("svm", two, bare),
        ("linear-svm", three, bare), ("mlp", three, few), ("ridge", three, bare),
        ("knn", three, {}), ("centroid", three, {}), ("lda", three, {}),
        ("svm", three, {"calibrate": True}), ("knn", two, {"calibrate": True}),
        ("svm", three, {"calibrate": "temperature"}), ("knn", two, {"threshold": "accuracy"}),
        ("logreg", two, both), ("mlp", two, {**few, **both}),
        ("logreg", several, {}), ("svm", several, {}), ("knn", several, {}), ("mlp", several, few),
    ]  # fmt: skip
    seeds = []
    for head, y, options in ways:
        final = fit_final(_X, y, head, tune=False, **options)
        made = Classifier(
            recipe=recipe,
            request={"model": "tiny", "weights": None},
            columns=(Column(),),
            classes=final.classes,
            head=final.estimator,
            head_name=final.head,
        )
        stream: dict[str, bytes] = {}
        with patch("featbank.classifier.write_file", lambda _, data, s=stream: s.update(a=data)):
            made.save("a")
        seeds.append(stream["a"])
    return tuple(seeds)


def unsigned(data: bytes) -> bytes:
    """Return an archive as skops made it."""
    end = len(data) - len(archive._MARK) - 64
    return data[: end - 2] + bytes(2)


def change_classifier(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change the archive or, mostly, what is in it, and sign it again."""
    plain = unsigned(data)
    if rng.random() < 0.3:
        return archive._signed(mutate(plain, rng, [unsigned(other) for other in corpus[:20]]))
    try:
        return archive._signed(mutate_archive(plain, rng))
    except Exception:  # an earlier change has made the archive unreadable
        return archive._signed(mutate(plain, rng))


def parse_classifier(data: bytes, path: Path) -> str:
    """Load a classifier and predict: a class of its own for each row, or it is refused."""
    path.write_bytes(data)
    return use_classifier(path)


def use_classifier(path: Path) -> str:
    """Load a classifier, as one to predict alone too, and predict, as `parse_classifier` says."""
    said = [_used(path, plain=plain) for plain in (True, False)]
    return said[-1]


def _used(path: Path, *, plain: bool) -> str:
    try:
        loaded = Classifier.load(path, plain=plain)
    except ClassifierError as error:
        return f"refused: {check_refusal(error)}"
    try:
        width = loaded.head.n_features_in_
        rows = _X if width == _X.shape[1] else np.zeros((3, width), np.float32)
        found = loaded.predict(rows)
        sets = loaded.labels(rows)
        loaded.predict_proba(rows)
        loaded.top(rows, 2)
    except ClassifierError as error:
        return f"refused when used: {check_refusal(error)}"
    for part in [] if plain else soundness._estimators(loaded.head) or ():
        kind = f"{type(part).__module__}.{type(part).__name__}"
        assert kind in archive.TRUSTED_TYPES, f"built {kind}, which nobody trusts"
    assert len(found) == len(sets) == len(rows), "predictions are missing"
    assert {*found, *(name for row in sets for name in row)} <= set(loaded.classes), (
        "classes that it does not have"
    )
    return "read"


# The fuzzer

_WATCHED = ("/featbank/", "/skops/", "/PIL/", "/zipfile.py", "/numpy/lib/")
_known_files: dict[str, str] = {}


def _short(filename: str) -> str:
    """Return a file's name if its lines count as coverage, else nothing."""
    if filename not in _known_files:
        watched = any(part in filename for part in _WATCHED) and "/torture/" not in filename
        _known_files[filename] = "/".join(filename.split("/")[-2:]) if watched else ""
    return _known_files[filename]


def _traced(work: Callable[[], str], seen: set[tuple[str, int]]) -> tuple[str, list[Any]]:
    """Return what `work` returns, and the lines that it reached first; add them to `seen`."""
    new: list[Any] = []

    def line(frame: FrameType, event: str, _: Any) -> Any:
        here = (_short(frame.f_code.co_filename), frame.f_lineno)
        if here not in seen:
            seen.add(here)
            new.append(here)
        return line

    def call(frame: FrameType, event: str, _: Any) -> Any:
        return line if _short(frame.f_code.co_filename) else None

    sys.settrace(call)
    try:
        return work(), new
    finally:
        sys.settrace(None)


def make_parsers(folder: Path) -> list[Parser]:
    """Return the parsers with their seeds."""
    shards, indexes = bank_seeds(folder / "seeds")
    return [
        Parser("image", image_seeds(), change_image, parse_image),
        Parser("shard", shards, change_shard, parse_shard),
        Parser("index", indexes, change_index, parse_index),
        Parser("classifier", list(classifier_seeds()), change_classifier, parse_classifier),
    ]


def rounds(trials: Trials, parser: Parser) -> Iterator[tuple[bytes, Result]]:
    """Yield inputs and what came of them, for ever."""
    path = trials.folder / f"{parser.name}.input"
    batch = list(parser.corpus)  # as they are first
    done = 0
    while True:
        inputs, done = batch, done + len(batch)

        def attempt(number: int, inputs: list[bytes] = inputs, done: int = done) -> dict[str, Any]:
            data = inputs[number]
            if done > _ALL_TRACED and number % 4:
                return {"said": parser.parse(data, path).split(":")[0], "lines": []}
            said, lines = _traced(lambda: parser.parse(data, path), parser.seen)
            return {"said": said.split(":")[0], "lines": lines}

        for result in attempts(len(inputs), attempt):
            if result.ok and result.found["lines"]:
                parser.seen.update(map(tuple, result.found["lines"]))
                if len(parser.corpus) < _CORPUS:
                    parser.corpus.append(inputs[result.number])
            yield inputs[result.number], result
        batch = [
            parser.change(trials.rng.choice(parser.corpus), trials.rng, parser.corpus)
            for _ in range(_ROUND)
        ]


def run(trials: Trials) -> None:
    """Feed the parsers in turn."""
    parsers = make_parsers(trials.folder)
    streams = [rounds(trials, parser) for parser in parsers]
    for number in trials:
        which = number % len(parsers)
        data, result = next(streams[which])
        name = parsers[which].name
        if not result.ok:
            digest = hashlib.sha256(data).hexdigest()[:12]
            kept = trials.keep(f"{name}-{digest}", data)
            trials.fail(f"{name} {digest} ({kept}): {result.words}")
            continue
        trials.figures[f"{name}: {result.found['said']}"] += 1
    for stream in streams:
        stream.close()
    for parser in parsers:
        trials.figures[f"{parser.name}: in the corpus"] = len(parser.corpus)


def _by_pillow_alone() -> AbstractContextManager[Any]:
    def plain(data: bytes, **_: Any) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    return patch.object(decoding, "decode", plain)


def _by_hdf5_alone() -> AbstractContextManager[Any]:
    return patch.object(hdf5, "open_inspected", lambda path: h5py.File(path, "r"))


def _by_skops_alone() -> AbstractContextManager[Any]:
    def plain(data: bytes, where: str, *, trust: tuple[str, ...]) -> tuple[str, Any, list[str]]:
        content = skops.io.loads(data, trusted=list(archive.TRUSTED_TYPES))
        return content["featbank"], content["head"], []

    return patch.object(classifier, "load_head", plain)


HARNESSES = (
    Harness(
        name="fuzz",
        claim="strangers' bytes are read rightly or refused: no crash, hang or other exception",
        unit="inputs",
        run=run,
        short=1_200,
        long=10_000,
        mutations=(
            Mutation("images decoded by Pillow alone", _by_pillow_alone, 400),
            Mutation("shards and indexes opened by HDF5 alone", _by_hdf5_alone, 400),
            Mutation("classifiers loaded by skops alone", _by_skops_alone, 400),
        ),
        seconds=1800.0,
    ),
)
