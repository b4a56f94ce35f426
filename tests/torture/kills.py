"""Kills: kill -9 at random instants of extractions; every row that was reported is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from featbank import durable
from featbank.bank import bank as bank_module
from featbank.bank import rows
from featbank.bank.bank import Bank
from featbank.bank.maintenance import verify
from featbank.errors import BankNotFound, FeaturesMissing
from featbank.extraction import claims, sealing
from featbank.extraction import run as running
from featbank.workflows import extract as workflow
from featbank.workflows import survey
from tests.extraction import fakes
from tests.torture import job
from tests.torture.harness import Harness, Mutation, Trials, in_child
from tests.torture.strike import ENDED, Blow, Progress, marked, processes_with, wait_until_gone

Row = tuple[str, str, bytes]
IMAGES = 30
ORPHAN_SECONDS = 20.0
"""For workers to see that their parent is gone, seal what they have, and end."""
ONE, BOTH = "penultimate", "penultimate,stage1"


@dataclass(frozen=True)
class Truth:
    """What an uninterrupted run over the same folder gives.

    Attributes
    ----------
    data : Path
    fingerprint : str
    rows : dict
        As `tests.torture.job.rows_of`, of both layers.
    index : list
        Name, label, digest and failure of each image.
    features : dict
        Of each layer.
    calls : int
        On the file system, at least, of a run of both layers.
    """

    data: Path
    fingerprint: str
    rows: dict[Row, str]
    index: list[Any]
    features: dict[str, Any]
    calls: int

    def keys(self, rows: dict[Row, str] | set[Row], layers: str) -> set[bytes]:
        """Return the images for which `rows` have all of `layers`."""
        names = columns_of(layers)
        return set.intersection(*({k for _, c, k in rows if c == name} for name in names))


def columns_of(layers: str) -> list[str]:
    return [column.name for column in workflow.parse_columns(layers)]


def index_of(bank: Path) -> list[Any]:
    """Return what the index says of the images, apart from times."""
    found = []
    for source in Bank(bank).index.sources.values():
        rows = zip(
            source.listing.names,
            source.listing.label.tolist(),
            source.digest,
            source.known,
            source.failure.tolist(),
            strict=True,
        )
        found += [
            (source.name, name, label, digest.tobytes() if known else None, failure)
            for name, label, digest, known, failure in rows
        ]
    return found


def make_truth(folder: Path, rng: Any, images: int = IMAGES) -> Truth:
    """Make a folder of images, two of them twice and one broken, and extract it in peace."""
    data, bank, progress = folder / "data", folder / "truth", Progress()
    paths = job.make_folder(data, images, rng)
    for i in (0, images // 2):
        shutil.copy2(paths[i], paths[i].with_name(f"again {i}.png"))
    broken = data / "a" / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    os.utime(broken, (1_000_000_000, 1_000_000_000))

    def work() -> None:
        # Saves by the clock are more where the machine is busy; without them it is the least.
        progress.follow(save_seconds=math.inf)
        job.extract(data, bank, layers=BOTH, batch_size=1)

    assert in_child(work).status == 0
    opened = Bank(bank)
    return Truth(
        data,
        opened.recipes[0].fingerprint,
        job.rows_of(bank),
        index_of(bank),
        {layer: opened.features(layer=layer) for layer in BOTH.split(",")},
        progress.calls,
    )


@contextlib.contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Append to a file what a store has sealed, before anything else happens."""
    seal = sealing.BankStore.seal
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def reported(store: sealing.BankStore, keys: Any, columns: Any) -> None:
        seal(store, keys, columns)
        lines = [
            f"{store.recipe.fingerprint} {key.tobytes().hex()} "
            f"{hashlib.sha256(row.tobytes()).hexdigest()} {column.name}\n"
            for column, values in columns.items()
            for key, row in zip(keys, values, strict=True)
        ]
        os.write(fd, "".join(lines).encode())

    with mock.patch.object(sealing.BankStore, "seal", reported):
        yield
    os.close(fd)


def reported_in(path: Path) -> dict[Row, str]:
    """Return the rows that were reported."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text().splitlines():
        fingerprint, key, digest, column = line.split(" ", 3)
        found[fingerprint, column, bytes.fromhex(key)] = digest
    return found


def check(bank: Path, truth: Truth, reported: dict[Row, str], trials: Trials) -> dict[Row, str]:
    """Open a bank as a kill has left it; return its rows. Nothing reported is lost or wrong."""
    try:
        Bank(bank)
    except BankNotFound:
        assert not reported, "the bank is gone"
        return {}
    rows = job.rows_of(bank)
    lost = reported.keys() - rows.keys()
    assert not lost, f"{len(lost)} of {len(reported)} reported rows are lost"
    wrong = [name for name, digest in reported.items() if rows[name] != digest]
    assert not wrong, f"{len(wrong)} reported rows are other bytes"
    odd = [name for name, digest in rows.items() if truth.rows.get(name) != digest]
    assert not odd, f"{len(odd)} rows are not those of an uninterrupted run"
    found = verify(Bank(bank))
    assert found.ok, found.damaged
    trials.figures["reported rows checked"] += len(reported)
    for layer, expected in truth.features.items():
        with contextlib.suppress(FeaturesMissing):
            selected = Bank(bank).select(layer=layer)
            keys = {key.tobytes() for key in selected.digests}
            assert keys <= truth.keys(rows, layer)
            if len(selected.X) == len(expected):
                assert np.array_equal(selected.X, expected), "features() gives other numbers"
    return rows


def temporaries(bank: Path) -> list[Path]:
    return [path for path in bank.rglob(".featbank-tmp-*") if path.is_file()]


def resume(bank: Path, truth: Truth, rows: dict[Row, str], trials: Trials, **words: Any) -> None:
    """Run to the end; the bank is that of an uninterrupted run, and nothing was done twice."""
    for path in temporaries(bank):  # as if they had lain for two hours
        os.utime(path, (time.time() - 7200,) * 2)
    outcome = bank.with_suffix(".result")

    def work() -> None:
        before = job.extract(truth.data, bank, layers=BOTH, batch_size=1, **words)
        again = job.extract(truth.data, bank, layers=BOTH, batch_size=1, **words)
        said = [(r.computed, r.reused, r.failed, r.remaining) for r in (before, again)]
        outcome.write_text(json.dumps(said))

    ended = in_child(work)
    assert ended.status == 0, f"the resumed run: {ended}"
    (computed, _, failed, remaining), second = json.loads(outcome.read_text())
    unique = len({key for _, _, key in truth.rows})
    there = len(truth.keys(rows, BOTH)) if rows else 0
    assert (computed, failed, remaining) == (unique - there, 1, 0), (
        f"{computed} computed, {failed} failed, {remaining} remain of {unique} with {there} there"
    )
    assert second[0] == 0, f"a further run computed {second[0]}"
    assert job.rows_of(bank) == truth.rows, "the rows are not those of an uninterrupted run"
    assert index_of(bank) == truth.index, "the index is not that of an uninterrupted run"
    for layer, expected in truth.features.items():
        assert np.array_equal(Bank(bank).features(layer=layer), expected)
    assert verify(Bank(bank)).ok
    assert not temporaries(bank), "temporaries were not swept"
    trials.figures["runs resumed to the end"] += 1
    trials.figures["rows compared with an uninterrupted run"] += len(truth.rows)


@dataclass
class Victim:
    """A bank on its way to its end, through kills.

    Attributes
    ----------
    bank, report : Path
        `report` is where its runs say what they have sealed.
    rows : dict
        What it holds.
    kills : int
    """

    bank: Path
    report: Path
    rows: dict[Row, str] = field(default_factory=dict)
    kills: int = 0

    def attack(self, truth: Truth, progress: Progress, trials: Trials) -> bool:
        """Run, strike, and check what is left; return whether the run was killed."""
        layers = trials.rng.choice((ONE, BOTH, BOTH))
        lacking = IMAGES - (len(truth.keys(self.rows, layers)) if self.rows else 0)
        progress.clear()
        blow = Blow.at_random(trials.rng, progress, 6 + truth.calls * lacking // IMAGES)
        with trials.checking(f"kill {trials.done}, {self.kills} before it, after {blow.calls}"):

            def work() -> None:
                progress.follow()
                with reporting(self.report):
                    job.extract(truth.data, self.bank, layers=layers, batch_size=1)
                progress.phase = ENDED

            ended = in_child(work, watch=blow)
            killed = ended.signal == signal.SIGKILL and not ended.hung
            assert killed or ended.status == 0, f"the run: {ended}"
            self.rows = check(self.bank, truth, reported_in(self.report), trials)
            if killed:
                self.kills += 1
                trials.figures[f"kills {progress.phase}"] += 1
            else:
                trials.figures["runs that ended before the kill"] += 1
            return killed
        return True  # it failed; and counts


def storm(trials: Trials) -> None:
    """Kill runs; a bank is killed up to five times before it is brought to its end."""
    truth = make_truth(trials.folder, trials.rng)
    progress = Progress()
    names = itertools.count()
    victim = None
    for _ in trials:
        killed = False
        while not killed:
            if victim is None:
                folder = trials.folder / f"bank {next(names)}"
                folder.mkdir()
                victim = Victim(folder / "bank", folder / "reported")
            before = trials.failed
            killed = victim.attack(truth, progress, trials)
            done = len(truth.keys(victim.rows, BOTH)) == IMAGES if victim.rows else False
            if done or victim.kills == 5 or trials.rng.random() < 0.1:
                with trials.checking(f"the resume after kill {trials.done}"):
                    resume(victim.bank, truth, victim.rows, trials)
            elif trials.failed == before:
                continue
            shutil.rmtree(victim.bank.parent)
            victim = None


@dataclass
class Hunt:
    """Kills a worker process of a run, or its parent; pass it to `in_child` as `watch`.

    Attributes
    ----------
    word : str
        The mark of the run's processes.
    after : float
        Seconds after the first worker is there.
    parent : bool
        Kill the parent rather than a worker.
    rng : random.Random
    fallen : bool
    """

    word: str
    after: float
    parent: bool
    rng: Any
    fallen: bool = False
    _since: float | None = None
    _looked: float = 0.0

    def __call__(self, pid: int, passed: float) -> None:
        if self.fallen or passed < self._looked:
            return
        if self._since is None:
            self._looked = passed + 0.02  # a look through /proc is not for nothing
            if set(processes_with(self.word)) - {pid}:
                self._since = passed
        elif passed >= self._since + self.after:
            workers = sorted(set(processes_with(self.word)) - {pid, os.getpid()})
            if self.parent or workers:
                with contextlib.suppress(ProcessLookupError):  # it ended this moment
                    os.kill(pid if self.parent else self.rng.choice(workers), signal.SIGKILL)
                self.fallen = True


@dataclass(frozen=True)
class Mode:
    """Extraction with worker processes: who runs the network, and with what."""

    embed: bool

    def extract(self, data: Path, bank: Path, **words: Any) -> Any:
        """Extract with two workers; in the embedding mode with a network of NumPy alone.

        A worker takes seconds to load torch, and a fraction of one to load NumPy.
        """
        if not self.embed:
            return job.extract(data, bank, batch_size=1, **{"workers": 2, **words})
        running.FEW = 0
        words = {"workers": 2, "batch_size": 1, "shard_rows": job.ROWS, **words}
        return fakes.extract(bank, data, **words)


def storm_with_workers(trials: Trials) -> None:
    """Kill a run with worker processes, or one of its workers."""
    job.make_folder(trials.folder / "data", IMAGES, trials.rng)
    data, report = trials.folder / "data", trials.folder / "reported"
    truths = {}
    for embed in (False, True):
        bank = trials.folder / f"truth {embed}"
        ended = in_child(lambda: Mode(embed).extract(data, bank, workers=0))  # noqa: B023
        assert ended.status == 0, ended
        truths[embed] = job.rows_of(bank)
    for number in trials:
        embed, parent = trials.rng.random() < 0.5, trials.rng.random() < 0.5
        bank, word = trials.folder / f"bank {number}", f"{os.getpid()} {number}"
        who = "parent" if parent else "worker"
        hunt = Hunt(word, trials.rng.uniform(0, 1.0), parent, trials.rng)
        what = f"{number}: {who} killed {hunt.after:.3f} s after the first worker, embed={embed}"
        with trials.checking(what), marked(word):
            outcome = bank.with_suffix(".result")

            def work() -> None:
                with reporting(report):
                    result = Mode(embed).extract(data, bank)  # noqa: B023
                outcome.write_text(json.dumps([result.computed, result.failed]))  # noqa: B023

            ended = in_child(work, watch=hunt)
            left = set(wait_until_gone(word, ORPHAN_SECONDS)) - {os.getpid()}
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert not left, f"{len(left)} workers outlive their parent"
            trials.figures[f"{who}s killed"] += hunt.fallen
            rows = job.rows_of(bank) if (bank / "bank.json").exists() else {}
            truth, reported = truths[embed], reported_in(report)
            assert reported.items() <= rows.items(), "reported rows are lost or wrong"
            assert rows.items() <= truth.items(), "rows are wrong"
            trials.figures["reported rows checked"] += len(reported)
            if parent and hunt.fallen and ended.status != 0:
                assert ended.signal == signal.SIGKILL, f"the run: {ended}"
                again = in_child(work)
                assert again.status == 0, f"the run after it: {again}"
                computed, failed = json.loads(outcome.read_text())
                assert (computed, failed) == (IMAGES - len(rows), 0)
                trials.figures["runs resumed to the end"] += 1
            else:
                assert ended.status == 0, f"the run: {ended}"
                assert json.loads(outcome.read_text()) == [IMAGES, 0]
                trials.figures["runs that went on without a worker"] += hunt.fallen
            assert job.rows_of(bank) == truth, "not the rows of an uninterrupted run"
            assert verify(Bank(bank)).ok
            assert len(Bank(bank).features()) == IMAGES
        report.unlink(missing_ok=True)
        shutil.rmtree(bank, ignore_errors=True)


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """Write shards straight under their names, in two writes."""

    def straight(path: Any, data: Any) -> bool:
        fd = durable.fs.create(path)
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            durable.fs.write(fd, part)
            durable.fs.sync(fd)
        os.close(fd)
        return True

    with mock.patch.object(durable, "publish_file", straight):
        yield


@contextlib.contextmanager
def behind() -> Iterator[None]:
    """Say that rows are sealed, and write them with the next ones or at the end."""
    seal, rest = Bank.seal, sealing.Sealer.rest
    waiting: list[tuple[Bank, Any, Any, Any]] = []

    def flush() -> None:
        while waiting:
            seal(*waiting.pop())

    def later(*args: Any) -> None:
        flush()
        waiting.append(args)

    def at_last(sealer: sealing.Sealer) -> list[int]:
        items = rest(sealer)
        flush()
        return items

    with (
        mock.patch.object(Bank, "seal", later),
        mock.patch.object(sealing.Sealer, "rest", at_last),
    ):
        yield


def folder_means_done() -> Any:
    """Hold all images of a source for done once the bank has a folder of the recipe."""
    plan = survey.plan_source

    def trusting(source: Any, tables: Any, **options: Any) -> Any:
        found = plan(source, tables, **options)
        if not any(len(table) for table in tables):
            return found
        none = np.zeros(len(source), np.bool_)
        return dataclasses.replace(
            found, read=none, unknown=none, compute=none, reused=~found.failed
        )

    return mock.patch.object(survey, "plan_source", trusting)


def index_alone() -> Any:
    """Compute again what the index does not know to be there, whatever the shards hold."""
    look = workflow.survey

    def forgetful(sources: Any, bank: Any, recipe: Any, columns: Any, **options: Any) -> Any:
        found, _ = look(sources, bank, recipe, columns, **options)
        return found, [rows.Rows.of(column, ()) for column in columns]

    return mock.patch.object(workflow, "survey", forgetful)


def torn_index() -> Any:
    """Write files over the old ones, piece by piece."""

    def over(path: Any, data: Any) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        size = len(data) // 8 + 1
        for start in range(0, len(data), size):
            durable.fs.write(fd, memoryview(data)[start : start + size])
            durable.fs.sync(fd)
        os.close(fd)

    return mock.patch.object(durable, "write_file", over)


def forgotten() -> Any:
    """Do not give out again what a worker had when it died."""
    return mock.patch.object(claims.Claims, "released", return_value=[])


def shuffled() -> Any:
    """Write the keys of a shard in another order than its rows."""
    seal = bank_module.seal_shard

    def crossed(folder: str, fingerprint: str, keys: Any, columns: Any) -> str:
        return seal(folder, fingerprint, keys[::-1], columns)

    return mock.patch.object(bank_module, "seal_shard", crossed)


def unswept() -> Any:
    """Leave temporaries where they are, for good."""
    return mock.patch.object(durable, "remove_temporaries", return_value=0)


HARNESSES = (
    Harness(
        "kill-storm",
        "what was reported as sealed is there after kill -9, and a resume does the rest alone",
        "kills",
        storm,
        short=20,
        long=1000,
        mutations=(
            Mutation("shards written in place", in_place),
            Mutation("rows reported before they are written", behind),
            Mutation("a folder that exists counts as done", folder_means_done),
            Mutation("what is there is asked of the index alone", index_alone),
            Mutation("index and documents written in place", torn_index),
            Mutation("keys in another order than rows", shuffled),
            Mutation("temporaries never swept", unswept),
        ),
    ),
    Harness(
        "kill-workers",
        "a run with workers whose parent is killed leaves none; one whose worker is goes on",
        "kills",
        storm_with_workers,
        short=3,
        long=40,
        mutations=(
            Mutation("what a dead worker had is not given out again", forgotten, trials=30),
        ),
    ),
)
