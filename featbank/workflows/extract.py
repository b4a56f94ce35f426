"""Extract: every image of the sources embedded once, into a bank."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import inspect
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank.backbones.device import check_device, likely_device
from featbank.backbones.layers import PENULTIMATE
from featbank.backbones.recipe import Column, Preprocess, Recipe
from featbank.backbones.request import Request
from featbank.backbones.trained_on import TrainedOn
from featbank.backbones.views import check_square, views_named
from featbank.bank import packed
from featbank.bank.bank import Bank
from featbank.bank.layered import check_target, extending, look
from featbank.bank.shard import columns_in
from featbank.data.decode import DecodePolicy
from featbank.data.index import Index, IndexedSource, Names
from featbank.data.sources import open_source
from featbank.data.walk import shown
from featbank.errors import (
    BackboneError,
    DataError,
    ExtractionError,
    UnknownLayer,
    nearest,
)
from featbank.extraction.claims import COMPUTED, FAILED, PENDING, REUSED, Claims
from featbank.extraction.messages import BackboneLoader
from featbank.extraction.run import Settings, run
from featbank.extraction.sealing import BankStore, writing
from featbank.interrupts import held_back
from featbank.workflows.contents import Contents
from featbank.workflows.moves import (
    MissingSource,
    missing_sources,
    note_on_missing,
    with_new_place,
)
from featbank.workflows.seen import trained_on_of
from featbank.workflows.survey import Surveyed, decode_cause, name_sources, open_sources_of, survey

if TYPE_CHECKING:
    from featbank.backbones.module import ModuleBackbone

__all__ = ["ExtractionResult", "Model", "extract", "extract_to", "open_model", "parse_columns"]

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

_said: set[str] = set()
_OF_MODEL = ("resize", "crop", "squash", "input_size", "precision", "runtime", "seed")
_OF_RUN = ("shard_rows", "limits", "watch")
_OF_PLAN = ("retry_failed", "paranoid", "replace")
_FEW = 10_000  # images that are counted in no time
_SHOW_SECONDS = 0.1  # between two looks at the progress, if there are more
_SAVE_SECONDS = 60.0  # between two saves of the index while a run goes on


@dataclass(frozen=True)
class Model:
    """A backbone as the workflows carry it about.

    Attributes
    ----------
    recipe : Recipe or None
        None for a module of the caller's without a version: its features can't be cached.
    loader : Loader
        Brings the network.
    request : dict
        The user's words.
    policy : DecodePolicy
    preprocess : Preprocess or None
        None where a transform of the caller's prepares the images.
    trained_on : TrainedOn or None
        Of tuned weights, the images that they were trained on.
    """

    recipe: Recipe | None
    loader: BackboneLoader
    request: dict[str, Any]
    policy: DecodePolicy
    preprocess: Preprocess | None
    trained_on: TrainedOn | None = None


@dataclass(frozen=True)
class ExtractionResult:
    """What an extraction did.

    Attributes
    ----------
    bank : Bank
    recipe : Recipe
    images, computed, reused, failed : int
        ``images = computed + reused + failed``; of images with the same bytes one is computed and
        the others are reused.
    remaining : int
        Images that an interrupted run did not come to; they count in none of the above.
    seconds : float
        From the scan of the sources to the last seal.
    errors : tuple of (str, str)
        Path and reason of each image that can't be read.
    busy : dict of str to float
        What the time after start-up went into, as shares; see `featbank.extraction.run.Times`.
        Empty where nothing was read.
    startup : float
        Seconds of `seconds` before images were embedded: scanning the sources, starting processes
        and loading the network.
    contents : Contents
        The classes and splits of the sources, and what was passed over in them.
    missing : tuple of MissingSource
        Sources of the bank whose folder or table is gone.
    replaced : tuple of MissingSource
        Those of which a source of this extraction took the place.
    """

    bank: Bank
    recipe: Recipe
    images: int
    computed: int
    reused: int
    failed: int
    remaining: int
    seconds: float
    errors: tuple[tuple[str, str], ...]
    contents: Contents
    busy: dict[str, float] = field(default_factory=dict)
    startup: float = 0.0
    missing: tuple[MissingSource, ...] = ()
    replaced: tuple[MissingSource, ...] = ()

    @property
    def images_per_second(self) -> float:
        """Images computed a second after start-up."""
        seconds = self.seconds - self.startup
        return self.computed / seconds if seconds > 0 else 0.0


def parse_columns(
    layers: str | Sequence[str] | None, dtype: str = "float32", *, views: str = "identity"
) -> tuple[Column, ...]:
    """Read ``--layers`` and ``--views``.

    Parameters
    ----------
    layers : str, list of str, or None
        ``layer[:pooling[:view[:dtype]]]``, several separated by commas; None is the penultimate.
    dtype : str
        How features are stored whose layer does not say.
    views : {"identity", "flips", "d4"}
        Which views there are of each layer that does not name one.

    Examples
    --------
    >>> [column.name for column in parse_columns("stage1", views="flips")][:2]
    ['stage1:avg:identity:float32', 'stage1:avg:hflip:float32']
    """
    several = views_named(views)
    words = ["penultimate"] if layers is None else layers
    words = words.split(",") if isinstance(words, str) else list(words)
    columns = []
    for word in words:
        if word.strip():
            column = Column.parse(word, dtype=dtype)
            own = several if word.count(":") < 2 else (column.view,)
            columns += [dataclasses.replace(column, view=view) for view in own]
    if not columns:
        raise BackboneError("no layer was named; leave --layers out for the penultimate one.")
    return tuple(dict.fromkeys(columns))


def open_model(model: str | Request | ModuleBackbone, **words: Any) -> Model:
    """Find the recipe of a model's name and options, or of a module of the caller's.

    Raises
    ------
    BackboneError
        See `featbank.backbones.resolution.resolve`.
    """
    if isinstance(model, str):
        model = Request(model, **words)
    elif words:
        raise BackboneError(
            f"{', '.join(sorted(words))} can't be given beside a module: it brings its own."
        )
    if isinstance(model, Request):
        from featbank.backbones.resolution import resolve
        from featbank.extraction.loader import RequestLoader

        if model.file is not None:  # a bank and a classifier outlive the working directory
            model = dataclasses.replace(model, weights=model.file)
        recipe = resolve(model)
        if model.random and recipe.weights not in _said:
            _said.add(recipe.weights)  # loudly, and once a process
            log.warning(
                "%s has random weights (seed %d): its features are a baseline, not knowledge",
                model.model,
                model.seed,
            )
        return Model(
            recipe,
            RequestLoader(model, recipe),
            # In float32 all runtimes give the same features.
            {**model.to_dict(), "runtime": recipe.runtime or "auto"},
            model.decode,
            recipe.preprocess,
            trained_on_of(None, model),
        )
    from featbank.backbones.module import ModuleBackbone
    from featbank.extraction.loader import ModuleLoader

    if not isinstance(model, ModuleBackbone):
        raise BackboneError(
            f"model is a name of `featbank models` or what from_module() makes of a module, "
            f"not a {type(model).__name__}."
        )
    return Model(
        model.recipe,
        ModuleLoader(model),
        {"module": model.recipe.backbone if model.recipe else None},
        model.decode,
        model.preprocess,
    )


def extract(
    source: Any,
    model: str | Request | ModuleBackbone = "resnet50",
    bank: str | os.PathLike[str] = "bank",
    *,
    layers: str | Sequence[str] | None = None,
    views: str = "identity",
    dtype: str = "float32",
    weights: str = "DEFAULT",
    workers: int | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    on_error: str = "skip",
    progress: Progress | None = None,
    **options: Any,
) -> Bank:
    """Embed every image of `source` once and keep the features in a bank.

    What the bank has is not computed again: a second call over unchanged files reads none of
    them. Every image that can't be read is kept in the bank's ledger, and stops nothing.

    Parameters
    ----------
    source : path, sequence, DataFrame, data set, Source, or tuple of paths
        As in `featbank.data.sources.open_source`; a tuple names several.
    model : str or ModuleBackbone
        A name of ``featbank models``, or your own module.
    bank : path
        A folder, or a packed file, whose name ends in ``.h5``; made if it is missing. What is added
        to a packed file is sealed in a folder beside it first; at the end a new file takes the old
        one's place in one step.
    layers : str or list of str, optional
        ``layer[:pooling]``; the default is the input of the final classifier.
    views : {"identity", "flips", "d4"}
        How the network's input is turned, exactly: "flips" is as it is, mirrored horizontally,
        vertically, and both; "d4" adds the four with a quarter turn, which need a square input.
        Each costs a forward pass and is kept as columns of its own; decoding is done once.
    dtype : {"float32", "float16"}
        As features are stored. float16 halves the bank, at a relative error of 2e-4.
    weights : str
        ``DEFAULT``, a torchvision enum name, a timm tag, a file, or ``none``.
    workers : int, optional
        Processes; by default one a core. 0 does everything in this process, with no watchdog.
    device : str
        auto, cpu, cuda or mps.
    batch_size : int, optional
    on_error : {"skip", "raise"}
    progress : callable, optional
        Called with the number of images settled and of all that are read.
    **options
        Of the source (``kind``, ``root``, ``columns``, ``classes``, ``exclude``,
        ``class_names``, ...), of the model (``resize``, ``crop``, ``squash``, ``input_size``,
        ``precision``, ``runtime``, ``seed``), and of the run (``shard_rows``, ``retry_failed``,
        ``paranoid``, ``replace``). ``replace=True`` puts a source in the place of the one in the
        bank that it is, moved; see `featbank.workflows.moves`. ``runtime`` is ``"auto"``,
        ``"torch"`` or ``"openvino"``: OpenVINO (the extra of this name) is two to three times as
        fast on a CPU and exact to 1e-5, which is seen to before it is taken; it also computes in
        bfloat16, at twice that speed.

    Returns
    -------
    Bank

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.extract("data/", model="efficientnet_lite0")   # doctest: +SKIP
    >>> bank.features().shape                                          # doctest: +SKIP
    (2624, 1280)
    """
    _check_options(options)
    words = {"weights": weights} if isinstance(model, str) else {}
    words |= {name: options.pop(name) for name in _OF_MODEL if name in options}
    settings = {name: options.pop(name) for name in _OF_RUN if name in options}
    choices = {name: options.pop(name) for name in _OF_PLAN if name in options}
    result = extract_to(
        bank,
        open_sources_of(bank, source, **options),
        open_model(model, **words),
        parse_columns(layers, dtype, views=views),
        settings=run_settings(
            workers=workers,
            device=device,
            batch_size=batch_size,
            on_error=on_error,
            **settings,
        ),
        progress=progress,
        **choices,
    )
    again = "extract(..., replace=True)"
    if (note := note_on_missing(result.missing, result.bank.path, again=again)) is not None:
        log.warning("%s", note)
    return result.bank


def _check_options(options: Iterable[str]) -> None:
    """Raise a `TypeError`, as Python does, for an option that `extract` does not have."""
    own, of_source = (inspect.signature(f).parameters for f in (extract, open_source))
    valid = {*own, *of_source, *_OF_MODEL, *_OF_RUN, *_OF_PLAN} - {"location", "options"}
    for name in options:
        if name not in valid:
            raise TypeError(f"extract() has no option {name!r}; {nearest(name, valid)}")


def run_settings(
    *,
    workers: int | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    on_error: str = "skip",
    **more: Any,
) -> Settings:
    """Check the words that say how a run goes about its work."""
    if on_error not in ("skip", "raise"):
        raise DataError(f"on_error is 'skip' or 'raise', not {on_error!r}.")
    for name, value, least in (
        ("workers", workers, 0),
        ("batch_size", batch_size, 1),
        ("shard_rows", more.get("shard_rows"), 1),
    ):
        if value is not None and value < least:
            raise DataError(f"{name} is {value}; give {least} or more.")
    check_device(device)  # also where nothing is to be run
    return Settings(
        workers=workers,
        device=device,
        batch_size=batch_size,
        raise_on_error=on_error == "raise",
        **more,
    )


def extract_to(
    bank: str | os.PathLike[str],
    sources: Sequence[Any],
    model: Model,
    columns: Sequence[Column],
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
    retry_failed: bool = False,
    paranoid: bool = False,
    replace: bool = False,
) -> ExtractionResult:
    """Bring a bank up to date with its sources; see `extract`.

    Raises
    ------
    DataError
        `replace` is asked for, and no source of the bank moved to a new one.
    KeyboardInterrupt
        After sealing what was finished; its first argument is the `ExtractionResult` so far.
    """
    began = time.monotonic()
    settings = settings or Settings()
    recipe = model.recipe
    if recipe is None:
        raise BackboneError(
            "features of a module are kept in a bank only if it has a version: "
            "from_module(..., version='1')."
        )
    check_square(columns, model.preprocess)
    words = (sources, recipe, columns, retry_failed, paranoid, replace)

    def plan(existing: Bank | None) -> _Work:
        _check_layers(existing, model, recipe, columns)
        work = _Work.of(existing, *words)
        if work.paths:
            on_device(settings, recipe)  # raises before anything is made
        return work

    def carry_out(work: _Work, target: Bank) -> ExtractionResult:
        return _carry_out(work, target, model, recipe, settings, progress, began)

    if packed.names_file(bank):
        return _extract_packed(bank, plan, carry_out)
    existing = look(bank)
    with contextlib.ExitStack() as held:
        if existing is not None:  # what the survey finds there must stay
            with writing():
                held.enter_context(existing.using())
        work = plan(existing)
        with writing():  # not before the sources were found to be some
            target = Bank.create(bank)
            if existing is None:
                held.enter_context(target.using())
        return carry_out(work, target)


def _check_layers(
    bank: Bank | None, model: Model, recipe: Recipe, columns: Sequence[Column]
) -> None:
    """Refuse layers that the network does not have, before any file is looked at.

    Columns that the bank has already need no network to be known.
    """
    wanted = {column.layer for column in columns} - {PENULTIMATE}
    if wanted and bank is not None:
        wanted -= {column.layer for column in columns_in(bank.shards(recipe.fingerprint))}
    if not wanted:
        return
    there = model.loader.layers()
    for layer in sorted(wanted):
        if layer not in there:
            raise UnknownLayer(
                f"the backbone has no layer {layer!r}; {nearest(layer, [PENULTIMATE, *there])}"
            )


class _Paths(Sequence[bytes]):
    """The paths of the files that are to be read, each made when it is asked for."""

    def __init__(self, surveyed: Sequence[Surveyed]) -> None:
        self._parts = [(part.now, np.flatnonzero(part.plan.read)) for part in surveyed]
        self._ends = list(accumulate(len(rows) for _, rows in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, item: Any) -> Any:
        if not 0 <= item < len(self):
            raise IndexError(item)
        number = bisect.bisect_right(self._ends, item)
        indexed, rows = self._parts[number]
        return indexed.path(int(rows[item - self._ends[number]]))  # counted from the end


@dataclass(frozen=True)
class _Work:
    """What an extraction has found to do."""

    surveyed: list[Surveyed]
    paths: _Paths
    claims: Claims
    index: Index
    missing: list[MissingSource]

    @classmethod
    def of(
        cls,
        existing: Bank | None,
        sources: Sequence[Any],
        recipe: Recipe,
        columns: Sequence[Column],
        retry_failed: bool,
        paranoid: bool,
        replace: bool,
    ) -> _Work:
        described = existing.sources if existing else {}
        index = existing.index if existing else Index()
        named = name_sources(sources, described)
        missing = missing_sources(described, named)
        surveyed, tables = survey(
            named,
            existing,
            recipe,
            columns,
            retry_failed=retry_failed,
            paranoid=paranoid,
            index=index,
            replacing=missing if replace else (),
        )
        new = [source.root for source in named if source.name not in described]
        if replace and new and not any(part.replaces for part in surveyed):
            raise DataError(
                f"{shown(new[0])} replaces nothing: no source whose folder or table is gone has "
                "nearly all of its images there, by the same names and bytes; leave --replace "
                "(replace=) out, and remove the old source by `featbank prune --source`."
            )
        paths = _Paths(surveyed)
        return cls(surveyed, paths, Claims(tables, len(paths)), index, missing)

    @property
    def replaced(self) -> tuple[MissingSource, ...]:
        """Missing sources that others take the place of."""
        return tuple(
            dataclasses.replace(one, moved_to=part.source.table or part.source.root)
            for one in self.missing
            for part in self.surveyed
            if part.replaces[:1] == (one.name,)
        )

    def still_missing(self, found: Sequence[IndexedSource]) -> tuple[MissingSource, ...]:
        """Return the missing sources that stay, each with where its images are now."""
        gone = {name for part in self.surveyed for name in part.replaces}
        return tuple(
            with_new_place(one, self.index, [part.source for part in self.surveyed], found)
            for one in self.missing
            if one.name not in gone
        )

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to read, and nothing new to say in the index."""
        return not self.paths and not any(_differs(p.before, p.now) for p in self.surveyed)


def _extract_packed(
    path: str | os.PathLike[str],
    plan: Callable[[Bank | None], _Work],
    carry_out: Callable[[_Work, Bank], ExtractionResult],
) -> ExtractionResult:
    """Extract into a packed bank: into a folder beside it, which is packed at the end."""
    check_target(path)
    if packed.unfinished(os.path.abspath(path)) is None:
        existing = Bank(path) if os.path.isfile(path) else None
        work = plan(existing)  # before anything is made: the sources may be none
        if existing is not None and work.nothing:
            return carry_out(work, existing)
    with contextlib.ExitStack() as held:
        with writing():
            target = held.enter_context(extending(path))
        result = carry_out(plan(target), target)
        try:
            with writing():
                held.close()  # and so pack
        except KeyboardInterrupt as interrupt:
            interrupt.args = (result,)
            raise
    return dataclasses.replace(result, bank=Bank(path))


def _carry_out(
    work: _Work,
    target: Bank,
    model: Model,
    recipe: Recipe,
    settings: Settings,
    progress: Progress | None,
    began: float,
) -> ExtractionResult:
    """Do the work, and keep the index of `target` up to date over it."""
    surveyed, paths, claims = work.surveyed, work.paths, work.claims
    removed = {name for part in surveyed for name in part.replaces if name != part.source.name}
    on_disk = [part.before for part in surveyed]

    def save() -> None:
        found = _learned(surveyed, claims, recipe)

        def current(
            index: Index, described: Mapping[str, Any]
        ) -> tuple[list[IndexedSource], list[dict[str, Any]]]:
            """Say what is known, beside what other processes have brought since the survey."""
            nonlocal surveyed
            own = {part.source.name for part in surveyed if part.replaces}
            others = {n: d for n, d in described.items() if n not in {*own, *removed}}
            surveyed = _renamed(surveyed, others)
            for position, part in enumerate(surveyed):
                found[position] = dataclasses.replace(found[position], name=part.source.name)
            whole = [part.completed_by(index.sources.get(part.name)) for part in found]
            return whole, [part.source.to_dict() for part in surveyed]

        if any(_differs(old, new) for old, new in zip(on_disk, found, strict=True)):
            with held_back():
                with writing():
                    target.revise(current, remove=removed)
                on_disk[:] = found

    saved = shown = time.monotonic()

    def on_progress(claims: Claims) -> None:
        nonlocal saved, shown
        now = time.monotonic()
        # Counting takes its time where there are millions.
        if progress is not None and (now - shown > _SHOW_SECONDS or claims.n < _FEW):
            progress(claims.n - claims.pending, claims.n)
            shown = now
        if now - saved > _SAVE_SECONDS:
            save()
            saved = time.monotonic()

    def save_if_possible() -> None:
        try:
            save()
        except ExtractionError:
            log.warning("the index could not be saved: files will be read again")

    busy: dict[str, float] = {}
    startup = 0.0
    try:
        save()  # names and labels hold whatever happens to the features
        if paths:
            with writing():
                target.register(recipe, provenance(model, settings), model.trained_on)
            startup = time.monotonic() - began
            try:
                times = run(
                    paths,
                    model.loader,
                    BankStore(target, recipe),
                    claims,
                    policy=model.policy,
                    preprocess=model.preprocess,
                    settings=on_device(settings, recipe),
                    progress=on_progress,
                )
            except Exception:
                save_if_possible()
                raise
            busy, startup = times.busy, startup + times.startup
            save()
        else:
            with writing():  # what is reused must be as lasting as what is computed
                target.settle(recipe)
                if model.trained_on is not None:  # a bank of an older featbank doesn't have it
                    target.register(recipe, provenance(model, settings), model.trained_on)
    except KeyboardInterrupt as interrupt:  # wherever it fell
        with held_back():
            save_if_possible()
            interrupt.args = (_result(target, recipe, surveyed, claims, time.monotonic() - began),)
        raise
    result = _result(target, recipe, surveyed, claims, time.monotonic() - began)
    missing = work.still_missing(_learned(surveyed, claims, recipe)) if work.missing else ()
    return dataclasses.replace(
        result, busy=busy, startup=startup, missing=missing, replaced=work.replaced
    )


def _renamed(surveyed: Sequence[Surveyed], described: Mapping[str, Any]) -> list[Surveyed]:
    """Give other names to sources whose own another process has meanwhile given to another."""
    sources = name_sources([part.source for part in surveyed], described)
    return [
        dataclasses.replace(
            part, source=source, now=dataclasses.replace(part.now, name=source.name)
        )
        for part, source in zip(surveyed, sources, strict=True)
    ]


def on_device(settings: Settings, recipe: Recipe | None) -> Settings:
    """Return the settings with the device that `auto` means here."""
    of_cpu = recipe is not None and recipe.runtime == "openvino" and settings.device == "auto"
    device = "cpu" if of_cpu else likely_device(settings.device)
    return dataclasses.replace(settings, device=device)


def provenance(model: Model, settings: Settings) -> dict[str, Any]:
    """Return what stands beside a recipe without being part of it."""
    versions = {}
    for package in ("featbank", "torch", "torchvision", "timm", "openvino", "numpy", "pillow"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "request": model.request,
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": settings.device,
    }


def _learned(surveyed: Sequence[Surveyed], claims: Claims, recipe: Recipe) -> list[IndexedSource]:
    """Return the sources with what a run has found out about their files."""
    found = []
    start = 0
    counted = {**_counted_before(surveyed), **claims.pages}
    for part in surveyed:
        rows = np.flatnonzero(part.plan.read)
        items = slice(start, start + len(rows))
        start = items.stop
        state, stat, read_digest = claims.state[items], claims.stat[items], claims.digest[items]
        looked = state != PENDING
        fresh = looked & (stat[:, 0] >= 0)
        listing = part.now.listing
        columns = {}
        for position, name in enumerate(("size", "mtime", "ctime", "inode", "scanned")):
            values = getattr(listing, name).copy()
            values[rows[fresh]] = stat[fresh, position]
            columns[name] = values
        digest, known = part.now.digest.copy(), part.now.known.copy()
        # Also of an image that could not be decoded.
        read = looked & (read_digest.view(np.uint64) != 0).any(axis=1)
        digest[rows[read]] = read_digest[read]
        known[rows[looked]] = read[looked]
        noted = np.flatnonzero(looked & (part.now.failed[rows] | (state == FAILED)))
        reasons: dict[int, str | None] = dict.fromkeys(rows[noted].tolist())
        causes: dict[int, str | None] = dict.fromkeys(rows[noted].tolist())
        for row, item in zip(rows[noted].tolist(), (items.start + noted).tolist(), strict=True):
            failure = claims.failures.get(item)
            if failure is not None:
                reasons[row] = failure.reason
                causes[row] = recipe.fingerprint if failure.in_network else decode_cause(recipe)
        pages = dict(part.now.pages)
        if counted:
            for row, key in zip(rows[read].tolist(), read_digest[read], strict=True):
                if (number := counted.get(key.tobytes(), 1)) > 1:
                    pages[listing.names[row]] = number
        found.append(
            dataclasses.replace(
                part.now,
                listing=dataclasses.replace(listing, **columns),
                digest=digest,
                known=known,
                failure=part.now.failure.replaced(reasons),
                failure_under=part.now.failure_under.replaced(causes),
                pages=pages,
            )
        )
    return found


def _counted_before(surveyed: Sequence[Surveyed]) -> dict[bytes, int]:
    """Return the numbers of pages that the index has, by digest: what is reused is not decoded."""
    counted = {}
    for before in [part.before for part in surveyed if part.before and part.before.pages]:
        for row, number in zip(before.match([*before.pages]), before.pages.values(), strict=True):
            if row >= 0:
                counted[before.digest[row].tobytes()] = number
    return counted


def _differs(old: IndexedSource | None, new: IndexedSource) -> bool:
    """Whether the index on disk, which says `old`, must be written to say what `new` says."""
    if old is None or len(old) != len(new) or old.root != new.root:
        return True
    texts = ("label", "split", "group")
    looked = new.known | new.failed
    same = (
        Names.of(old.listing.names) == Names.of(new.listing.names)
        and np.array_equal(old.listing.stat, new.listing.stat)
        and np.array_equal(old.known, new.known)
        and np.array_equal(old.digest[new.known], new.digest[new.known])
        and np.array_equal(old.listing.racy[looked], new.listing.racy[looked])
        and old.requested == new.requested
        and old.failure.equals(new.failure)
        and old.failure_under.equals(new.failure_under)
        and (old.pages, old.sniffed) == (new.pages, new.sniffed)
        and all(getattr(old.listing, n).equals(getattr(new.listing, n)) for n in texts)
        and old.listing.extra.keys() == new.listing.extra.keys()
        and all(old.listing.extra[n].equals(new.listing.extra[n]) for n in new.listing.extra)
    )
    return not same


def _result(
    bank: Bank, recipe: Recipe, surveyed: Sequence[Surveyed], claims: Claims, seconds: float
) -> ExtractionResult:
    failed_before = sum(int(part.plan.failed.sum()) for part in surveyed)
    reused_before = sum(int(part.plan.reused.sum()) for part in surveyed)
    errors = []
    start = 0
    for part in surveyed:
        for row in np.flatnonzero(part.plan.failed):
            reason = part.now.failure[int(row)] or ""
            errors.append((os.fsdecode(part.now.path(int(row))), reason))
        for row in np.flatnonzero(part.plan.read):
            if claims.state[start] == FAILED:
                name = os.fsdecode(part.now.path(int(row)))
                errors.append((name, claims.failures[start].reason))
            start += 1
    counts = {state: claims.count(state) for state in (COMPUTED, REUSED, FAILED)}
    computed = counts[COMPUTED]
    reused = counts[REUSED] + reused_before
    failed = counts[FAILED] + failed_before
    return ExtractionResult(
        bank=bank,
        recipe=recipe,
        images=computed + reused + failed,
        computed=computed,
        reused=reused,
        failed=failed,
        remaining=claims.pending,
        seconds=seconds,
        errors=tuple(errors),
        contents=Contents.of(
            _learned(surveyed, claims, recipe) if claims.n else (part.now for part in surveyed)
        ),
    )
