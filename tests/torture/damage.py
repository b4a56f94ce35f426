"""Damage: bits flipped and bytes lost in every region of every file that featbank keeps.

A trial changes one file of a small bank (a shard, the packed form, the index, a document) or a
classifier. `verify` must name the damage, or loading must raise; and a read after the change
raises, or gives exactly what was there: never another number, never the end of the process. Some
trials damage several files at once, and `repair` and one more extraction must bring all of it back.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np

from featbank import hdf5
from featbank.bank import bank as bank_module
from featbank.bank import maintenance, recipes
from featbank.bank.bank import Bank
from featbank.bank.maintenance import compact, verify
from featbank.bank.repair import repair
from featbank.bank.verified import Verified
from featbank.classifier import Classifier
from featbank.errors import BankError, ClassifierError
from featbank.heads import archive
from featbank.heads.registry import make_head
from tests.torture import job
from tests.torture.harness import Harness, Mutation, Trials, in_child

IMAGES = 14
LAYERS = "penultimate,stage1"
BATCH = 25  # trials a child: one that dies or hangs takes no more with it
REPAIRS = 40  # one trial in so many is a repair

Span = tuple[int, int]


@dataclass(frozen=True)
class Target:
    """One file that is damaged, and its regions.

    Attributes
    ----------
    kind : str
    path : str
        Relative to the scene's folder.
    data : bytes
        As it was written.
    regions : dict of str to list of (int, int)
        Together every byte of the file, by what lies there.
    """

    kind: str
    path: str
    data: bytes
    regions: dict[str, list[Span]]


@dataclass(frozen=True)
class Plan:
    """One trial: the damage, in plain numbers, and a name for it in a report."""

    target: int
    region: str
    change: str
    at: int
    bit: int
    size: int
    keep_times: bool
    seed: int


@dataclass
class Scene:
    """A bank as folder and file, a classifier, and all that they truly hold."""

    folder: Path
    targets: list[Target] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data, self.bank = self.folder / "data", self.folder / "bank"
        self.packed, self.classifier = self.folder / "bank.h5", self.folder / "head.skops"

    @classmethod
    def made(cls, trials: Trials) -> Scene:
        scene = cls(trials.folder)
        job.make_folder(scene.data, IMAGES, trials.rng)
        (scene.data / "a" / "broken.png").write_bytes(b"no image")
        job.extract(scene.data, scene.bank, layers=LAYERS)
        bank = Bank(scene.bank)
        compact(bank, scene.packed)
        chosen = bank.select(layer="penultimate")
        head = make_head("centroid").fit(chosen.X, np.array(chosen.labels))
        Classifier(
            chosen.recipe, chosen.request, chosen.columns, tuple(head.classes_), head, "centroid"
        ).save(scene.classifier)
        scene.truth = scene.content(bank)
        scene.rows = job.rows_of(scene.bank)
        for path in bank.shard_paths(bank.recipes[0].fingerprint):
            scene.add("shard", path, _of_hdf5)
        scene.add("packed", scene.packed, _of_hdf5)
        scene.add("index", scene.bank / "index.h5", _of_hdf5)
        for name in ("bank.json", "sources.json", f"{bank.recipes[0].slug}/recipe.json"):
            scene.add(os.path.basename(name), scene.bank / name, _of_document)
        scene.add("classifier", scene.classifier, _of_archive)
        return scene

    def add(
        self, kind: str, path: str | Path, regions: Callable[[Path], dict[str, list[Span]]]
    ) -> None:
        path = Path(path)
        data = path.read_bytes()
        found = {name: spans for name, spans in regions(path).items() if spans}
        spans = sorted(span for part in found.values() for span in part)
        assert [a for a, _ in spans] + [len(data)] == [0] + [b for _, b in spans], path
        relative = os.path.relpath(path, self.folder)
        self.targets.append(Target(kind, relative, data, found))

    def content(self, bank: Bank) -> list[Any]:
        """Return all that a user reads from a bank, as plain data that compares."""
        of = bank.select(layer=LAYERS.split(","))
        names = [known.fingerprint for known in bank.recipes]
        return [of.X, of.paths, of.labels, of.sources, of.digests.tolist(), names]

    def restore(self) -> None:
        """Bring every file back."""
        for target in self.targets:
            path = self.folder / target.path
            if not path.is_file() or path.read_bytes() != target.data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(target.data)


def _rest(size: int, taken: list[Span]) -> list[Span]:
    """Return what of `size` bytes lies between spans."""
    bounds = [0, *(edge for span in sorted(taken) for edge in span), size]
    pairs = zip(bounds[::2], bounds[1::2], strict=True)
    return [(a, b) for a, b in pairs if a < b]


def _of_hdf5(path: Path) -> dict[str, list[Span]]:
    data = path.read_bytes()
    start = hdf5.USER_BLOCK if hdf5.is_sealed(str(path)) else 0
    regions: dict[str, list[Span]] = {
        "user block": [(0, start)] if start else [],
        "superblock": [(start, start + 96)],
    }

    def visit(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and item.size:
            offset = item.id.get_offset()
            word = name.rsplit("/", 1)[-1].split(":")[0]
            regions.setdefault(f"values of {word}", []).append((offset, offset + item.nbytes))

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(visit)
    rest = _rest(len(data), [span for spans in regions.values() for span in spans])
    padding = [span for span in rest if not any(data[slice(*span)])]
    return {**regions, "padding": padding, "headers": [s for s in rest if s not in padding]}


def _of_document(path: Path) -> dict[str, list[Span]]:
    text = path.read_bytes()
    first = text.index(b"\n", 2) + 1
    return {"digest": [(0, first)], "text": [(first, len(text))]}


def _of_archive(path: Path) -> dict[str, list[Span]]:
    data = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        members: list[Span] = []
        for info in file.infolist():
            header = data[info.header_offset :][:30]  # its last fields are two lengths
            start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
            members.append((start, start + info.compress_size))
        directory, comment = file.start_dir, len(data) - len(file.comment)
    taken = [*members, (directory, comment), (comment, len(data))]
    return {
        "members": members,
        "directory": [(directory, comment)],
        "comment": [(comment, len(data))],
        "headers": _rest(len(data), taken),
    }


# A trial


def planned(scene: Scene, trials: Trials, number: int) -> Plan:
    """Choose a damage: each kind of file, then each region, then each byte is as likely."""
    rng = trials.rng
    kind = rng.choice(sorted({target.kind for target in scene.targets}))
    target = rng.choice([i for i, t in enumerate(scene.targets) if t.kind == kind])
    regions = scene.targets[target].regions
    region = rng.choice(sorted(regions))
    start, end = rng.choice(regions[region])
    kinds = ["flip"] * 6 + ["truncate", "zero", "append"] + ["swap"] * (kind == "shard")
    change = "repair" if number % REPAIRS == REPAIRS // 2 else rng.choice(kinds)
    return Plan(
        target=target,
        region=region,
        change=change,
        at=rng.randrange(start, end),
        bit=rng.randrange(8),
        size=rng.randrange(1, 64),
        keep_times=rng.random() < 0.5,
        seed=rng.randrange(1 << 30),
    )


def changed(scene: Scene, plan: Plan) -> bytes:
    """Return the damaged bytes, which always differ from the whole ones."""
    target = scene.targets[plan.target]
    data = bytearray(target.data)
    if plan.change == "truncate":
        return bytes(data[: plan.at])
    if plan.change == "append":
        return bytes(data) + bytes(plan.size)
    if plan.change == "swap":
        others = [t.data for t in scene.targets if t.kind == target.kind and t is not target]
        return others[plan.seed % len(others)]
    if plan.change == "zero":
        start = plan.at // 4096 * 4096
        data[start : start + 4096] = bytes(len(data[start : start + 4096]))
        if data != target.data:
            return bytes(data)
    data[plan.at] ^= 1 << plan.bit
    return bytes(data)


def damage(path: Path, data: bytes, *, keep_times: bool) -> None:
    """Write `data` in place, seen at least in the change time."""
    before = os.stat(path)
    while True:
        with open(path, "r+b") as file:
            file.write(data)
            file.truncate()
        if keep_times:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        if os.stat(path).st_ctime_ns != before.st_ctime_ns:
            return
        time.sleep(0.002)  # the clock of the file system has not gone on


def warm(folder: Path, names: list[str]) -> None:
    """Have a bank's files known as verified, as a reading more than two seconds ago left them."""
    known = {}
    for name in names:
        info = os.stat(folder / name)
        known[name] = [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
    (folder / "verified.json").write_text(json.dumps(known))


def same(one: list[Any], other: list[Any]) -> bool:
    """Tell whether two contents are the same, to the last bit."""
    return one[1:] == other[1:] and bool(np.array_equal(one[0], other[0]))


def try_damage(scene: Scene, plan: Plan) -> None:
    """Damage one file; raise if that is not seen, or if it is read as something else."""
    target = scene.targets[plan.target]
    path = scene.folder / target.path
    data = changed(scene, plan)
    assert data != target.data
    if target.kind == "classifier":
        damage(path, data, keep_times=plan.keep_times)
        try:
            Classifier.load(path)
        except ClassifierError:
            return
        raise AssertionError("a damaged classifier was loaded")
    of = scene.packed if target.kind == "packed" else scene.bank
    warm(scene.folder, ["bank.h5"])
    warm(scene.bank, [t.path.removeprefix("bank/") for t in scene.targets if t.kind == "shard"])
    bank = Bank(of)
    if plan.seed % 2:  # in turn as a process that has read it before, and as another one
        assert same(scene.content(bank), scene.truth), "the scene is not whole"
    damage(path, data, keep_times=plan.keep_times)
    try:
        found = scene.content(bank)
    except BankError:
        found = None
    if found is not None:
        assert same(found, scene.truth), "other numbers were read"
        assert target.kind not in ("shard", "packed", "index"), "a damaged file was read"
    try:
        said = verify(of).damaged
    except BankError as error:
        said = (str(error),)
    assert said, "verify saw nothing"
    assert any(os.path.basename(path) in sentence for sentence in said), said
    assert target.kind == "packed" or "featbank repair" in said[0], said


def try_repair(scene: Scene, plan: Plan) -> None:
    """Damage some files of a bank, repair, and extract; raise unless all of it is there again."""
    rng = np.random.default_rng(plan.seed)
    folder = scene.folder / "repaired"
    shutil.copytree(scene.bank, folder)
    try:
        files = [t for t in scene.targets if t.path.startswith("bank/")]
        for number in rng.permutation(len(files))[: rng.integers(1, 4)]:
            path = folder / files[number].path.removeprefix("bank/")
            if rng.random() < 0.2:
                path.unlink()
                continue
            data = bytearray(path.read_bytes())
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            path.write_bytes(data)
        done = repair(folder)
        assert verify(folder).ok, verify(folder).damaged
        assert repair(folder).quarantined == ()
        lost = set(scene.rows) - set(job.rows_of(folder))
        told = done.to_compute if done.images else done.notes  # no index, so no image to name
        assert told or not lost, "rows were lost and nothing was said"
        job.extract(scene.data, folder, layers=LAYERS)
        bank = Bank(folder)
        found = scene.content(bank)
        assert found[1:] == scene.truth[1:], "other images"
        np.testing.assert_allclose(found[0], scene.truth[0], rtol=1e-5, atol=1e-6)
        assert set(job.rows_of(folder)) == set(scene.rows)
    finally:
        shutil.rmtree(folder)


# Many trials


def work(scene: Scene, plans: list[Plan], report: Path) -> None:
    """Make trials, and write a line before and after each: the last one tells what killed us."""
    with report.open("w") as file:
        for number, plan in enumerate(plans):
            file.write(f"{json.dumps([number, 'began'])}\n")
            file.flush()
            said = None
            try:
                (try_repair if plan.change == "repair" else try_damage)(scene, plan)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            scene.restore()
            file.write(f"{json.dumps([number, said])}\n")
            file.flush()


def attempt(scene: Scene, plans: list[Plan], trials: Trials) -> None:
    """Make trials in children, until each has been made."""
    report = scene.folder / "report.jsonl"
    while plans:
        ended = in_child(partial(work, scene, plans, report), seconds=60)
        lines = [json.loads(line) for line in report.read_text().splitlines()]
        over = {number: said for number, said in lines if said != "began"}
        for number, plan in enumerate(plans[: len(over)]):
            target = scene.targets[plan.target]
            with trials.checking(f"{target.path}, {plan.region}: {plan}"):
                assert over[number] is None, over[number]
            trials.figures["repairs" if plan.change == "repair" else f"{target.kind} damaged"] += 1
        if len(over) < len(plans):
            how = "hung" if ended.hung else f"ended it by signal {ended.signal or ended.status}"
            trials.fail(f"{scene.targets[plans[len(over)].target].path}: {plans[len(over)]} {how}")
            scene.restore()
            plans = plans[len(over) + 1 :]
        else:
            plans = []


def run(trials: Trials) -> None:
    scene = Scene.made(trials)
    plans: list[Plan] = []
    seen = set()
    for number in trials:
        plan = planned(scene, trials, number)
        plans.append(plan)
        seen.add((scene.targets[plan.target].kind, plan.region))
        if len(plans) == BATCH or number + 1 == trials.wanted:
            attempt(scene, plans, trials)
            plans = []
    attempt(scene, plans, trials)
    trials.figures["regions"] = len(seen)


# Faults that must be seen


@contextmanager
def unchecked(*places: tuple[Any, str]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, name in places:
            stack.enter_context(mock.patch.object(module, name, return_value=None))
        yield


@contextmanager
def undigested_documents() -> Iterator[None]:
    def read(path: str) -> dict[str, Any]:
        try:
            document = json.loads(Path(path).read_bytes())
        except ValueError as error:
            raise bank_module.BankDamaged(f"{path}, run `featbank repair`: {error}") from error
        document.pop("sha256", None)
        return document

    with (
        mock.patch.object(bank_module, "read_document", read),
        mock.patch.object(recipes, "read_document", read),
    ):
        yield


@contextmanager
def trusting_sizes() -> Iterator[None]:
    def ensure(self: Verified, path: str, check: Callable[[str], None]) -> None:
        known, name = self._load(), os.path.relpath(path, self._folder)
        if name not in known or known[name][0] != os.stat(path).st_size:
            check(path)

    with mock.patch.object(Verified, "ensure", ensure):
        yield


HARNESSES = (
    Harness(
        "damage",
        "every change of a file is found by verify or on loading, and no other number is read",
        "changes",
        run,
        short=100,
        long=5200,
        seconds=1800.0,
        mutations=(
            Mutation(
                "a shard's digest unchecked",
                lambda: unchecked((bank_module, "check_digest"), (maintenance, "check_digest")),
            ),
            Mutation("a seal unchecked", lambda: unchecked((hdf5, "check_seal"))),
            Mutation("a document's digest unchecked", undigested_documents),
            Mutation(
                "a classifier's digest unchecked",
                lambda: unchecked((archive, "_check_digest")),
            ),
            Mutation("verified files known by their size alone", trusting_sizes),
        ),
    ),
)
