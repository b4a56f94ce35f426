"""The run: images in, sealed features out, whatever dies on the way.

Two ways of sharing the work, after measurement. On a CPU, and with many images, each worker
process decodes its own batches and runs its own single-threaded network. On a GPU, with few
images, or with a network that can't travel, workers decode and this process runs the network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from featbank.backbones.device import available_cores
from featbank.backbones.recipe import Column, Preprocess
from featbank.data.decode import DecodeLimits, DecodePolicy, decode
from featbank.errors import BackboneError, ExtractionError, ImageError
from featbank.extraction.claims import PENDING, Claims
from featbank.extraction.loader import GraphLoader, fastest
from featbank.extraction.messages import (
    Decoded,
    Done,
    Event,
    Failed,
    Loader,
    Network,
    Pages,
    Reading,
    Sealed,
    Started,
    Stop,
    Task,
    TaskSpec,
    WorkerSpec,
)
from featbank.extraction.pool import Died, Pool, Watch, Worker
from featbank.extraction.sealing import BankStore, Sealer, Store
from featbank.extraction.task import (
    DECODING,
    DISK,
    NETWORK,
    NOT_FINITE,
    BatchOutcome,
    Embedder,
    Stopwatch,
    TaskRunner,
)
from featbank.extraction.trial import Trial
from featbank.interrupts import held_back

__all__ = ["Settings", "Times", "run"]

log = logging.getLogger(__name__)

FEW = 256
"""Up to so many images, starting a network in every worker costs more than it brings."""

FEW_FOR_GRAPH = 48
"""The same where a graph is at hand, which starts without torch."""

GRAPH_BATCH = 8
"""Images that go through a graph together: what they take still fits the caches."""

_GRACE_SECONDS = 30.0  # for workers to seal what they have after an interrupt


@dataclass(frozen=True)
class Settings:
    """How a run goes about its work; no feature depends on it beyond the stated tolerance.

    Attributes
    ----------
    workers : int or None
        Processes; None: one a core. 0: everything in this process, with no watchdog.
    device : str
        Where the network runs: cpu, cuda, cuda:1, mps.
    batch_size : int or None
        Images that go through the network together; None: 8 or 16 on a CPU, elsewhere as many as
        a trial finds best.
    shard_rows, shard_seconds
        A shard is sealed after so many rows, or when its first row is so old.
    raise_on_error : bool
        Whether the first image that can't be read ends the run.
    limits, watch
        Which files are refused, and what one may cost.
    decode : callable
        As `featbank.data.decode.decode`.
    """

    workers: int | None = None
    device: str = "cpu"
    batch_size: int | None = None
    shard_rows: int = 1024
    shard_seconds: float = 30.0
    raise_on_error: bool = False
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    watch: Watch = field(default_factory=Watch)
    decode: Callable[..., Any] = decode

    @property
    def batch(self) -> int:
        """Images that are read together, and embedded together where nothing else is said."""
        return self.batch_size or 16


@dataclass(frozen=True)
class Times:
    """What the time of a run went into.

    Attributes
    ----------
    startup : float
        Seconds until the first process had started and loaded the network.
    busy : dict of str to float
        Shares of the time after that. Where each process does everything: "network", "decoding",
        "disk" and "other", which includes waiting, of all processes together; they sum to 1. Where
        one process runs the network: "network" and "network waiting" of that process, and
        "decoding", "disk" and "decoders waiting" of the others; each of both groups sums to 1.
    """

    startup: float
    busy: dict[str, float]


def run(
    paths: Sequence[bytes],
    loader: Loader,
    store: Store,
    claims: Claims,
    *,
    policy: DecodePolicy,
    preprocess: Preprocess | None,
    settings: Settings,
    progress: Callable[[Claims], None] = lambda claims: None,
) -> Times:
    """Read images and compute what the store lacks; `claims` says what became of each.

    Parameters
    ----------
    paths : sequence of bytes
    loader : Loader
        Brings the network where it is needed; it is not asked if nothing is computed.
    store : Store
        Where features are sealed.
    claims : Claims
        One entry a path; it holds also when the run ends in an error or an interrupt.
    policy, preprocess
        From bytes to the network's input; None as `preprocess` leaves it to the network.
    settings : Settings
    progress : callable
        Called with `claims` whenever something was settled.

    Returns
    -------
    Times

    Raises
    ------
    ImageError
        An image can't be read and `settings.raise_on_error`.
    ExtractionError
        The disk is full, or workers die without an image to blame.
    KeyboardInterrupt
        After sealing what was finished.
    """
    columns = tuple(table.column for table in claims.tables)
    spec = TaskSpec(columns, policy, settings.limits, preprocess, settings.batch, settings.decode)
    job = _Run(paths, loader, store, spec, settings, claims, progress)
    began = time.monotonic()
    try:
        _work(job, len(paths), loader, store, settings)
        return job.times(time.monotonic() - began)
    except KeyboardInterrupt:
        with held_back():
            claims.reconcile([store.rows(column) for column in columns])
        raise


def _work(job: _Run, n: int, loader: Loader, store: Store, settings: Settings) -> None:
    if settings.workers == 0:
        job.inline()
    elif job.many(n) and _embeds_in_workers(loader, store, settings):
        job.in_workers()
    else:
        job.decoded_in_workers()


def _embeds_in_workers(loader: Loader, store: Store, settings: Settings) -> bool:
    if settings.device != "cpu" or not isinstance(store, BankStore):
        return False
    try:
        data = pickle.dumps(loader)
    except Exception as error:
        log.info("the network can't travel to worker processes (%s); it runs in this one", error)
        return False
    if b"__main__" in data:  # a worker can't import what a script or a notebook defines
        log.info("the network is defined in the main script; it runs in this process")
        return False
    return True


class _Run:
    """One run's state, and the three ways of sharing its work."""

    def __init__(
        self,
        paths: Sequence[bytes],
        loader: Loader,
        store: Store,
        spec: TaskSpec,
        settings: Settings,
        claims: Claims,
        progress: Callable[[Claims], None],
    ) -> None:
        self.paths = paths
        self.loader = loader
        self.store = store
        self.spec = spec
        self.settings = settings
        self.claims = claims
        self.progress = progress
        self.todo = deque(range(len(paths)))
        self.suspects: set[int | bytes] = set()
        self.retry: deque[int] = deque()
        self.watch = Stopwatch()
        self.decoders = 1  # processes
        self.apart = False  # whether one process runs the network and the others decode
        self.startup = 0.0
        self.waiting_since: float | None = None  # for the first worker
        self.loaded = False
        self._network: Network | None = None
        self.embedder = Embedder(self.network)
        tried = settings.device != "cpu" and settings.batch_size is None
        self.trial = Trial() if tried else None

    # What all three share

    def network(self) -> Network:
        if self._network is None:
            start = time.monotonic()
            self._network = self.fastest().load(self.settings.device)
            self.startup += time.monotonic() - start
        return self._network

    def fastest(self, *, make: bool = True) -> Loader:
        """Return the loader, or that of a graph which brings the same features sooner."""
        return fastest(self.loader, self.spec.columns, device=self.settings.device, make=make)

    def times(self, seconds: float) -> Times:
        """Return what the time of the run went into, of `seconds` that it took."""
        startup = min(self.startup, seconds)
        spent = self.watch.spent
        if not spent:
            return Times(startup, {})
        busy: dict[str, float] = {}
        groups: list[tuple[tuple[str, ...], int, str]]
        groups = [((NETWORK, DECODING, DISK), self.decoders, "other")]
        if self.apart:
            groups = [
                ((NETWORK,), 1, f"{NETWORK} waiting"),
                ((DECODING, DISK), self.decoders, "decoders waiting"),
            ]
        for kinds, processes, rest in groups:
            own = {what: spent.get(what, 0.0) for what in kinds}
            whole = max((seconds - startup) * processes, sum(own.values()), 1e-9)
            busy |= {what: value / whole for what, value in own.items()}
            busy[rest] = max(0.0, 1 - sum(own.values()) / whole)
        return Times(startup, busy)

    def heard(self) -> None:
        """Note that a worker has said something: the first to do so has started."""
        if self.waiting_since is not None:
            self.startup += time.monotonic() - self.waiting_since
            self.waiting_since = None

    def many(self, n: int) -> bool:
        """Whether `n` images are worth a network in every worker."""
        return n > FEW or (n > FEW_FOR_GRAPH and isinstance(self.fastest(make=False), GraphLoader))

    @property
    def more(self) -> bool:
        """Whether there are images to be given out."""
        return bool(self.todo or self.retry)

    def next_task(self) -> Task:
        if self.todo:
            n = min(self.spec.batch_size, len(self.todo))
            items = [self.todo.popleft() for _ in range(n)]
        else:
            items = [self.retry.popleft()]
        return Task(tuple(items), tuple(self.paths[item] for item in items))

    def size(self) -> int:
        """Return how many workers are worth starting."""
        tasks = -(-len(self.todo) // self.spec.batch_size) + len(self.retry)
        return max(1, min(self.settings.workers or available_cores(), tasks))

    def handle(self, event: Event) -> None:
        if isinstance(event, Done):
            self.watch.add(event.spent)
            return
        if isinstance(event, Pages):
            self.claims.pages[self.claims.digest[event.item].tobytes()] = event.number
            return
        if isinstance(event, Started):
            if not self.loaded:  # the others load at the same time
                self.startup += event.seconds
            self.loaded = True
            return
        if isinstance(event, Failed):
            for item in self.claims.failed(event):
                name = os.fsdecode(self.paths[item])
                log.debug("%s: %s", name, event.reason)
                if self.settings.raise_on_error:
                    raise ImageError(f"{name}: {event.reason}")
        elif isinstance(event, Sealed) and event.items:
            self.claims.sealed(event.items)
        else:
            return
        self.progress(self.claims)

    def claim(self, readings: list[Reading]) -> list[tuple[int, ...]]:
        wanted = self.claims.claim(readings)
        if not all(wanted):
            self.progress(self.claims)
        return wanted

    def answer(self, pool: Pool, worker: Worker, readings: list[Reading]) -> list[tuple[int, ...]]:
        """Tell a worker what is wanted of what it has read; what is not is its care no more."""
        wanted = self.claims.claim(readings)
        pool.send(worker, wanted)
        worker.held.difference_update(
            reading.item for reading, columns in zip(readings, wanted, strict=True) if not columns
        )
        self.progress(self.claims)
        return wanted

    def worker_spec(self) -> WorkerSpec:
        return WorkerSpec(self.spec, patience=2 * self.settings.watch.seconds + 5)

    def sealer(self) -> Sealer:
        return Sealer(
            self.store, rows=self.settings.shard_rows, seconds=self.settings.shard_seconds
        )

    def died(self, worker: Worker, event: Died) -> None:
        """Put down to an image what killed its worker, and give out the rest again.

        An image over which a worker dies without the watchdog's doing is tried once more, alone
        and last: it may have been the system, out of memory, that chose that worker.
        """
        lost = {item for item in worker.held if self.claims.state[item] == PENDING}
        suspect = event.item if event.item in lost else None
        if suspect is not None:
            # Images of the same bytes are one suspect; it may have died before they were known.
            names = {suspect, self.claims.digest[suspect].tobytes()} - {bytes(32)}
            if event.ended or names & self.suspects:
                self.handle(Failed(suspect, event.reason))
                lost.discard(suspect)
            self.suspects |= names
        for item in self.claims.released(lost):
            (self.retry if item == suspect else self.todo).append(item)

    # Everything in this process

    def inline(self) -> None:
        runner = TaskRunner(
            self.spec, self.handle, self.claim, network=self.network, sealer=self.sealer()
        )
        try:
            while self.more:
                runner.run(self.next_task())
            runner.finish()
        except BaseException:
            with held_back():
                runner.finish()
            raise

    # Workers that decode, embed and seal

    def in_workers(self) -> None:
        assert isinstance(self.store, BankStore)
        start = time.monotonic()
        loader = self.fastest()
        self.startup += time.monotonic() - start
        if isinstance(loader, GraphLoader) and self.settings.batch_size is None:
            self.spec = dataclasses.replace(self.spec, batch_size=GRAPH_BATCH)
        spec = dataclasses.replace(
            self.worker_spec(),
            loader=loader,
            bank=self.store.bank.path,
            recipe=self.store.recipe,
            shard_rows=self.settings.shard_rows,
            shard_seconds=self.settings.shard_seconds,
        )
        self.decoders = self.size()
        self.waiting_since = time.monotonic()
        pool = Pool(spec, self.size(), self.settings.watch)
        try:
            while self.more or pool.workers:
                if self.more:
                    pool.fill(self.size())
                for worker in list(pool.workers):
                    if not worker.busy and not worker.stopping:
                        if self.more:
                            pool.give(worker, self.next_task())
                        else:
                            pool.stop(worker)
                for worker, event in pool.events():
                    self.heard()
                    self._from_worker(pool, worker, event)
        except (KeyboardInterrupt, ImageError):
            self._wind_down(pool)
            raise
        finally:
            with held_back():
                pool.kill()

    def _from_worker(self, pool: Pool, worker: Worker, event: Any) -> None:
        if isinstance(event, list):
            self.answer(pool, worker, event)
        elif isinstance(event, Died):
            self.died(worker, event)
        elif isinstance(event, Done):
            self.watch.add(event.spent)
            worker.busy = False
            worker.held = {i for i in worker.held if self.claims.state[i] == PENDING}
        elif not isinstance(event, Stop):
            self.handle(event)

    def _wind_down(self, pool: Pool) -> None:
        """Let workers seal what they have computed."""
        for worker in pool.workers:
            pool.stop(worker)
        end = time.monotonic() + _GRACE_SECONDS
        quiet = dataclasses.replace(self.settings, raise_on_error=False)
        self.settings = quiet
        with contextlib.suppress(KeyboardInterrupt, ExtractionError):  # a second Ctrl-C: at once
            while pool.workers and time.monotonic() < end:
                for worker, event in pool.events():
                    if isinstance(event, Sealed | Failed | Pages):
                        self.handle(event)
                    elif isinstance(event, list):
                        pool.stop(worker)

    # Workers that decode, and the network here

    def decoded_in_workers(self) -> None:
        self.decoders = self.size()
        self.apart = True
        self.waiting_since = time.monotonic()
        pool = Pool(self.worker_spec(), self.size(), self.settings.watch)
        sealer = self.sealer()
        running: deque[tuple[tuple[int, ...], tuple[int, ...], Future[BatchOutcome]]] = deque()
        wanted: dict[int, tuple[int, ...]] = {}
        ready: dict[tuple[int, ...], list[tuple[int, Any]]] = {}

        def launch(*, everything: bool) -> None:
            """Give the network full batches; all batches when nothing more is to come."""
            for columns in list(ready):
                images = ready[columns]
                size = self.trial.size if self.trial else self.settings.batch
                while len(images) >= size or (everything and images):
                    batch, images = images[:size], images[size:]
                    items = tuple(item for item, _ in batch)
                    arrays = [array for _, array in batch]
                    chosen = [self.spec.columns[i] for i in columns]
                    future = network.submit(self._embed, items, arrays, chosen)
                    running.append((items, columns, future))
                ready[columns] = images

        def collect(*, wait: bool) -> None:
            while running and (wait or running[0][2].done()):
                items, _, future = running.popleft()
                outcome = future.result()
                for position in outcome.bad:
                    self.handle(Failed(items[position], NOT_FINITE, in_network=True))
                good = [items[i] for i in outcome.good]
                keys = [self.claims.digest[item].tobytes() for item in good]
                with self.watch.on(DISK):
                    sealed = sealer.add(good, keys, outcome.features)
                self.handle(Sealed(tuple(sealed)))

        def finish() -> None:
            pool.kill()
            self.handle(Sealed(tuple(sealer.rest())))

        with ThreadPoolExecutor(1, thread_name_prefix="featbank-network") as network:
            try:
                while self.more or any(w.busy for w in pool.workers):
                    if self.more:
                        pool.fill(self.size())
                    # Decoded images wait in memory: read on only while the network keeps up.
                    if len(running) < 4:
                        for worker in list(pool.workers):
                            if self.more and not worker.busy:
                                pool.give(worker, self.next_task())
                    for worker, event in pool.events(0.01 if running else 0.1):
                        self.heard()
                        if isinstance(event, list):
                            reply = self.answer(pool, worker, event)
                            wanted.update(
                                (reading.item, columns)
                                for reading, columns in zip(event, reply, strict=True)
                            )
                        elif isinstance(event, Decoded):
                            for item, array in zip(event.items, event.arrays, strict=True):
                                ready.setdefault(wanted.pop(item), []).append((item, array))
                            worker.held.difference_update(event.items)
                        else:
                            self._from_worker(pool, worker, event)
                    collect(wait=False)
                    self.handle(Sealed(tuple(sealer.due())))
                    launch(everything=False)
                launch(everything=True)
                collect(wait=True)
                finish()
            except BaseException as error:
                with held_back():
                    try:
                        if isinstance(error, KeyboardInterrupt | ImageError):
                            self.settings = dataclasses.replace(self.settings, raise_on_error=False)
                            collect(wait=False)  # keep what is finished
                    finally:
                        for _, _, future in running:
                            future.cancel()
                        finish()
                raise

    def _embed(
        self, items: Sequence[int], arrays: list[Any], columns: list[Column]
    ) -> BatchOutcome:
        network = self.network()
        if self.spec.preprocess is None:
            from PIL import Image

            for position, item in enumerate(items):
                try:
                    arrays[position] = network.prepare(Image.fromarray(arrays[position]))
                except Exception as error:
                    raise BackboneError(
                        f"the transform can't take {os.fsdecode(self.paths[item])}: {error}"
                    ) from error
        began = time.perf_counter()
        with self.watch.on(NETWORK):
            outcome = self.embedder.embed(arrays, columns)
        if self.trial:
            seconds = time.perf_counter() - began
            self.trial.took(len(arrays), seconds, fitting=self.embedder.fitting)
        return outcome
