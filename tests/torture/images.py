"""Hostile images: each is refused with a reason, or comes out as the picture that it is.

Each file is decoded in a child of its own, which measures time and memory; then extracted by the
command line among others with ``--on-error skip``, and alone with ``--on-error raise``.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import pickle
import random
import re
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from click.testing import CliRunner
from PIL import Image, ImageFile

from featbank.bank.bank import Bank
from featbank.cli import cli
from featbank.cli.options import shown
from featbank.data import decode as decoding
from featbank.data.decode import DecodeLimits, decode, read_bytes
from featbank.errors import ImageError
from featbank.workflows import extract as workflow
from tests.torture.harness import Harness, Mutation, Trials, in_child
from tests.torture.hostile_files import IMAGE, REFUSED, Hostile, hostile_files, mutated
from tests.torture.job import extract, make_folder, network

TOGETHER = 24
"""Hostile files that are extracted in one run, with good ones between them."""

GOOD = 4
SECONDS = 60.0
"""For one file; the largest of all take a tenth of it on an idle machine."""

SPARE, FILE, PIXEL = 80 << 20, 4, 20
"""Memory for one file: bytes, bytes a byte of the file, bytes a pixel that may be decoded."""

_NO_ADDRESSES = 12 << 30  # where a child's memory ends in any case


@dataclass(frozen=True)
class Look:
    """What became of one file in its child."""

    reason: str | None  # why it was refused
    wrong: str  # what is wrong about it, or nothing
    peak: int
    seconds: float


# One file


def _expected(hostile: Hostile, image: Image.Image) -> str:
    """Return what is wrong with an image that came out of a file, or nothing."""
    pixels = np.asarray(image)
    if image.mode != "RGB" or pixels.dtype != np.uint8:
        return f"it came out as {image.mode}"
    if hostile.due == REFUSED:
        return f"it came out as an image of {image.width} x {image.height}"
    if hostile.pixels is None:
        few = pixels[:: 1 + image.height // 512, :: 1 + image.width // 512]
        flat = (
            image.width * image.height > 64 and int(np.ptp(few.reshape(-1, 3), axis=0).max()) == 0
        )
        return f"it is all of one colour, {few[0, 0].tolist()}" if flat else ""
    if pixels.shape != hostile.pixels.shape:
        return f"its shape is {pixels.shape}, not {hostile.pixels.shape}"
    off = np.abs(pixels.astype(np.int16) - hostile.pixels)
    # In parts, for a lost corner hardly moves the mean of all.
    parts = [part for rows in _quarters(off, 0) for part in _quarters(rows, 1)]
    worst = max(float(part.mean()) for part in parts)
    if worst > 2 * hostile.tolerance or float(off.mean()) > hostile.tolerance:
        return f"its pixels are off by {off.mean():.1f} on average, {worst:.1f} in one part"
    return ""


def _quarters(values: np.ndarray[Any, Any], axis: int) -> list[np.ndarray[Any, Any]]:
    return [part for part in np.array_split(values, 4, axis) if part.size]


def _look(path: Path, hostile: Hostile, said: Path) -> None:
    """Decode a file and leave a `Look`; runs in a child."""
    resource.setrlimit(resource.RLIMIT_AS, (_NO_ADDRESSES, _NO_ADDRESSES))
    ctypes.CDLL(None).malloc_trim(0)  # what the parent has freed would be taken unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _memory("VmRSS")
    began = time.monotonic()
    reason = image = None
    try:
        image = decode(read_bytes(path))
    except ImageError as error:
        reason = str(error)
    seconds = time.monotonic() - began
    peak = max(0, _memory("VmHWM") - before)
    wrong = ""
    if image is not None:
        wrong = _expected(hostile, image)
    elif hostile.due == IMAGE:
        wrong = f"it was refused: {reason}"
    said.write_bytes(pickle.dumps(Look(reason, wrong, peak, seconds)))


def _memory(field: str) -> int:
    """Return a figure of this process's memory, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) << 10


def _looked(path: Path, hostile: Hostile, said: Path) -> Look:
    """Decode a file in a child; raise `AssertionError` where anything about it is wrong."""
    said.unlink(missing_ok=True)
    ended = in_child(partial(_look, path, hostile, said), seconds=SECONDS)
    assert not ended.hung, f"decoding it took more than {SECONDS:g} seconds"
    assert ended.status == 0, f"decoding it ended the process: {ended}"
    look: Look = pickle.loads(said.read_bytes())
    assert not look.wrong, look.wrong
    size = path.stat().st_size if path.is_file() else 0
    size = size if size <= DecodeLimits().max_bytes else 0
    granted = SPARE + FILE * size + PIXEL * hostile.decoded
    assert look.peak <= granted, f"{look.peak >> 20} MiB of memory, over {granted >> 20}"
    if look.reason is not None:
        _check_sentence(look.reason)
        assert re.search(hostile.says, look.reason), f"it says {look.reason!r}"
    return look


def _check_sentence(reason: str) -> None:
    assert reason.endswith("."), f"no sentence: {reason!r}"
    assert len(reason) < 400, f"{len(reason)} characters of reason"
    assert reason.isprintable(), f"the reason can't be printed: {reason!r}"


# The command line, in a child as well


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    status: int
    out: str
    err: str


def _featbank(said: Path, *commands: tuple[str, ...]) -> list[Said]:
    """Run commands in a child, with the small network in place of the one that is named."""

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (_NO_ADDRESSES, _NO_ADDRESSES))
        opened = workflow.open_model(network())
        found = []
        for words in commands:
            with mock.patch.object(workflow, "open_model", return_value=opened):
                result = CliRunner().invoke(cli, list(words))
            error = result.exception
            if error is not None and not isinstance(error, SystemExit):
                raise error
            found.append(Said(result.exit_code, result.stdout, result.stderr))
        said.write_bytes(pickle.dumps(found))

    said.unlink(missing_ok=True)
    ended = in_child(work, seconds=TOGETHER * SECONDS)
    assert not ended.hung, f"featbank {commands[0][0]} hung"
    assert ended.status == 0, f"featbank {commands[0][0]} ended the process: {ended}"
    found: list[Said] = pickle.loads(said.read_bytes())
    return found


def _check_printable(text: str) -> None:
    odd = {c for c in text if not c.isprintable() and c != "\n"}
    assert not odd, f"unprintable characters were printed: {sorted(odd)}"


def _skipped(folder: Path, place: Path, good: dict[str, str], workers: int) -> dict[str, str]:
    """Extract a folder of good and hostile files; return path to reason of those that are not read.

    Parameters
    ----------
    good : dict
        Names of the good ones to the SHA-256 of their features.
    """
    bank, said = place / "bank", place / "said"
    shutil.rmtree(bank, ignore_errors=True)
    words = ("--bank", str(bank), "--batch-size", "1", "--shard-rows", "7", "--kind", "folder")
    command = ("extract", *words, "--workers", str(workers), str(folder))
    result, again, listed = _featbank(
        said,
        (*command, "--json"),
        command,  # reads the ledger and no image
        ("info", "--bank", str(bank), "--errors"),
    )
    assert result.status == 0, f"exit status {result.status}: {result.err}"
    told = json.loads(result.out)
    errors = {one["path"]: one["reason"] for one in told["errors"]}
    assert told["images"] == told["computed"] + told["reused"] + told["failed"]
    assert told["failed"] == len(told["errors"]) == len(errors), "a file is twice in the ledger"
    for one in (again, listed):
        assert one.status == 0, f"exit status {one.status}: {one.err}"
        _check_printable(one.out + one.err)
    opened = Bank(bank)
    found = dict(zip(opened.paths, opened.features(), strict=True))
    for name, digest in good.items():
        row = found[str(folder / "good" / name)]
        assert hashlib.sha256(row.tobytes()).hexdigest() == digest, f"features of {name} are wrong"
    assert len(found) == told["images"] - told["failed"]
    assert all(np.isfinite(row).all() for row in found.values()), "features are no numbers"
    return errors


def _raising(paths: list[Path], place: Path) -> list[Said]:
    """Extract the folder of each file alone, until the first that can't be read."""
    commands = []
    for path in paths:
        bank = path.parent.with_suffix(".bank")
        words = ("--bank", str(bank), "--workers", "0", "--on-error", "raise", "--kind", "flat")
        commands.append(("extract", *words, str(path.parent)))
    return _featbank(place / "said", *commands)


def _check_raised(said: Said, path: Path, reason: str | None) -> None:
    """Hold what a command said against the reason for which the file is refused."""
    _check_printable(said.out + said.err)
    if reason is None:
        assert said.status == 0, f"exit status {said.status}: {said.err}"
        return
    assert said.status == 1, f"exit status {said.status} where it is refused: {reason}"
    expected = f"Error: {shown(str(path))}: {shown(reason)}\n"
    assert said.err == expected, f"it says {said.err!r}, not {expected!r}"


# All of it


def _put(hostile: Hostile, folder: Path, number: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / os.fsdecode(hostile.name or b"%05d.jpg" % number)
    if isinstance(hostile.make, bytes):
        path.write_bytes(hostile.make)
    else:
        hostile.make(path)
    return path


FIRST = (
    "16-bit grey PNG, whole",
    "PNG of orientation 6",
    "lossless WebP, cut at 60 %",
    "bilevel PNG of 16,000 x 16,000",
    "progressive JPEG that claims 64 x 96",
)
"""What the mutations are about; the others come in random order."""


def _files(rng: random.Random) -> Iterator[Hostile]:
    """Give those made by rule, then damaged ones without end."""
    ruled = list(hostile_files())
    rng.shuffle(ruled)
    yield from sorted(ruled, key=lambda one: one.what not in FIRST)
    while True:
        yield mutated(rng)


def run(trials: Trials) -> None:
    """Decode each file alone; extract it with others and go on; extract it alone and stop."""
    place, files = trials.folder, _files(trials.rng)
    good = _good(place)
    for number in trials:
        which = number % TOGETHER
        if which == 0:
            several = [next(files) for _ in range(min(TOGETHER, trials.wanted - number))]
            for name in ("together", "alone"):
                shutil.rmtree(place / name, ignore_errors=True)
            shutil.copytree(place / "good", place / "together" / "good")
            paths = [_put(one, place / "together" / "bad", i) for i, one in enumerate(several)]
            alone = [_put(one, place / "alone" / str(i), i) for i, one in enumerate(several)]
            workers = 1 if number // TOGETHER % 8 == 7 else 0
            errors: dict[str, str] = {}
            raised: list[Said] = []
            with trials.checking(f"extracting {', '.join(one.what for one in several)}"):
                errors = _skipped(place / "together", place, good, workers)
                trials.figures["runs with a watchdog"] += workers
                raised = _raising(alone, place)
        hostile, path = several[which], paths[which]
        with trials.checking(f"{hostile.what} (seed {trials.seed}, number {number})"):
            look = _looked(path, hostile, place / "said")
            trials.figures["refused" if look.reason else "decoded"] += 1
            _keep_largest(trials, "most memory, MiB", look.peak >> 20)
            _keep_largest(trials, "longest, ms", int(1000 * look.seconds))
            if path.is_dir():  # no walk takes it for an image
                continue
            assert errors.get(str(path)) == look.reason, (
                f"the ledger says {errors.get(str(path))!r}, the decoder {look.reason!r}"
            )
            _check_raised(raised[which], alone[which], look.reason)


def _keep_largest(trials: Trials, figure: str, value: int) -> None:
    trials.figures[figure] = max(trials.figures[figure], value)


def _good(place: Path) -> dict[str, str]:
    """Make good images in a folder; return their names and the SHA-256 of their features."""
    make_folder(place / "good", GOOD, random.Random(0), classes=1)
    for path in (place / "good" / "a").iterdir():
        path.rename(place / "good" / path.name)
    (place / "good" / "a").rmdir()
    extract(place / "good", place / "reference", batch_size=1)
    opened = Bank(place / "reference")
    rows = zip(opened.paths, opened.features(), strict=True)
    return {os.path.basename(path): hashlib.sha256(row.tobytes()).hexdigest() for path, row in rows}


# Faults


@contextlib.contextmanager
def _no_mode_table() -> Iterator[None]:
    def plain(image: Image.Image, *_: Any, **__: Any) -> Image.Image:
        return image.convert("RGB")

    with mock.patch.object(decoding, "to_rgb", plain):
        yield


@contextlib.contextmanager
def _truncated_is_fine() -> Iterator[None]:
    with mock.patch.object(ImageFile, "LOAD_TRUNCATED_IMAGES", new=True):
        yield


@contextlib.contextmanager
def _no_orientation() -> Iterator[None]:
    with mock.patch.object(decoding, "_upright", lambda rgb, image: rgb):
        yield


@contextlib.contextmanager
def _no_limit() -> Iterator[None]:
    limits = DecodeLimits(max_pixels=10**12, max_side=10**9)
    with (
        mock.patch.object(Image, "MAX_IMAGE_PIXELS", None),
        mock.patch.object(decoding, "_open", partial(_open_any, decoding._open, limits)),
    ):
        yield


def _open_any(original: Any, limits: DecodeLimits, data: bytes, _: DecodeLimits) -> Image.Image:
    opened: Image.Image = original(data, limits)
    return opened


@contextlib.contextmanager
def _no_completeness() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in ("check_directory", "check_tiles", "check_png", "check_jpeg"):
            stack.enter_context(mock.patch.object(decoding, name, return_value=None))
        yield


MUTATIONS = (
    Mutation("a decoder without the mode table", _no_mode_table, TOGETHER),
    Mutation("LOAD_TRUNCATED_IMAGES on", _truncated_is_fine, TOGETHER),
    Mutation("EXIF orientation ignored", _no_orientation, TOGETHER),
    Mutation("no limit of pixels", _no_limit, TOGETHER),
    Mutation("no check of completeness", _no_completeness, TOGETHER),
)

HARNESSES = (
    Harness(
        "hostile-images",
        "each hostile file is refused with a reason or is the picture that it should be",
        "files",
        run,
        short=144,
        long=400,
        mutations=MUTATIONS,
        seconds=1800,
    ),
)
