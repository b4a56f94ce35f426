"""Compare: frozen features, fine-tuning and training from scratch, on identical folds."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featbank.backbones.recipe import Column
from featbank.backbones.request import Request
from featbank.bank.bank import Bank
from featbank.bank.recipes import KnownRecipe
from featbank.bank.selection import choose_columns, choose_recipe
from featbank.errors import EvaluationError, FeaturesMissing, FineTuneError
from featbank.finetuning.presets import Preset, parse_preset, parse_scratch
from featbank.finetuning.settings import FineTuneSettings
from featbank.workflows.comparison.cache import RowCache
from featbank.workflows.comparison.frozen import FrozenRow
from featbank.workflows.comparison.table import RowProgress, Table
from featbank.workflows.comparison.trained import TrainedRow
from featbank.workflows.comparison.words import RowWords
from featbank.workflows.layers import names_of
from featbank.workflows.rows import layer_words
from featbank.workflows.seen import trained_on_of

if TYPE_CHECKING:
    from featbank.evaluation.compared import ComparisonResult

__all__ = ["compare"]

Trainings = str | Sequence[str] | Mapping[str, FineTuneSettings | Mapping[str, Any]]


def compare(
    bank: Bank | str | os.PathLike[str] = "bank",
    heads: Any = "logreg",
    *,
    recipe: str | Sequence[str] | None = None,
    layers: str | Sequence[str | Sequence[str]] | None = None,
    finetune: Trainings = (),
    scratch: Trainings = (),
    source: str | Sequence[str] | None = None,
    label: str | None = None,
    positive: str | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    split: str | None = None,
    group: str | None = None,
    metric_weight: str | None = None,
    keep_copies: bool = False,
    cv: int | float | None = None,
    repeats: int = 1,
    tune: bool = True,
    class_weight: Any = None,
    scoring: str = "accuracy",
    random_state: int = 0,
    max_seconds: float | None = None,
    device: str = "auto",
    workers: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    progress: Callable[[RowProgress], None] | None = None,
) -> ComparisonResult:
    """Score heads on frozen features, fine-tuned networks and networks from scratch alike.

    All rows learn from and are scored on the same images. Each is computed in a process of its
    own, one after another and one fit at a time, so that its seconds and its memory are its own,
    and kept: a longer comparison computes what it adds, an interrupted one what it lacks.

    Parameters
    ----------
    bank : Bank or path
    heads : str, estimator, or sequence of them
        See `featbank.make_head`; a row for each, on each set of layers of each recipe. May be
        empty.
    recipe : str or sequence of str, optional
        Backbones of the bank; needed where it has several.
    layers : str or sequence, optional
        Sets of layers: a text with commas, or a sequence, joins its layers. One text is one set.
    finetune : str, sequence of str, or mapping
        Trainings that begin with the recipe's network: names of
        `featbank.finetuning.presets.PRESETS`, if need be with other values
        (``"last:epochs=3,lr=0.01"``) and a title (``"quick=last:epochs=3"``); or by title a
        `FineTuneSettings` or a mapping of its words. The words ``model``, ``weights`` and
        ``input_size`` choose another network.
    scratch : str, sequence of str, or mapping
        The same from random weights: ``"small-cnn-3,epochs=20"``, or by title words with a
        ``model`` among them.
    source, label, positive, classes, exclude, split, keep_copies, group, metric_weight
        As in `featbank.fit`.
    cv, repeats
        As in `featbank.fit`.
    tune, class_weight, scoring
        As in `featbank.fit`, for heads; trainings have settings of their own.
    random_state : int, default=0
        Seed of folds, heads and trainings.
    max_seconds : float, optional
        For each training row, spread over its folds.
    device : str
        Where networks are trained: auto, cpu, cuda or mps.
    workers : int, optional
        Processes that decode images for training.
    cache : path, optional
        Folder where rows are kept; by default in the user's cache (``$FEATBANK_CACHE``).
    fresh : bool, default=False
        Compute every row again.
    progress : callable, optional
        Called with a `RowProgress`, often.

    Returns
    -------
    ComparisonResult

    Raises
    ------
    FeaturesMissing, AmbiguousFeatures, DataError, EvaluationError, HeadError, FineTuneError
    BackboneError

    Examples
    --------
    >>> import featbank
    >>> found = featbank.compare("bank", ["logreg", "svm"], finetune="last")  # doctest: +SKIP
    >>> found["finetune last"].difference["accuracy"].low > 0  # doctest: +SKIP
    True
    """
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    words = RowWords(
        os.path.abspath(os.fspath(bank.path)),
        source=source,
        label=label,
        positive=positive,
        classes=classes,
        exclude=tuple(exclude),
        split=split,
        group=group,
        metric_weight=metric_weight,
        keep_copies=keep_copies,
        cv=cv,
        repeats=repeats,
        random_state=random_state,
    )
    options: dict[str, Any] = {"tune": tune, "class_weight": class_weight, "scoring": scoring}
    known = _recipes(bank, recipe)
    frozen, features, notes = _frozen(bank, known, _several(heads), _sets(layers), words, options)
    trained = _trained(
        known[0],
        [
            *(("finetune", one) for one in _presets(finetune, parse_preset)),
            *(("scratch", one) for one in _presets(scratch, parse_scratch)),
        ],
        words,
        device=device,
        workers=workers,
        max_seconds=max_seconds,
    )
    tuned = [
        *(trained_on_of(one.trained_on, one.provenance.get("request")) for one in known),
        *(trained_on_of(None, row.request) for row in trained),
    ]
    words = dataclasses.replace(words, trained_on=tuple(tuned))
    frozen = [dataclasses.replace(row, words=words) for row in frozen]
    trained = [dataclasses.replace(row, words=words) for row in trained]
    rows = _unique([*frozen, *trained])
    if not rows:
        raise EvaluationError("there is nothing to compare; name heads, finetune or scratch.")
    with bank.using():
        table = Table.of(rows, bank, known, words)
        for row in frozen:
            table.chosen.check(row.head, random_state=random_state, **options)
        found = table.compute(RowCache(cache), fresh=fresh, progress=progress)
    return table.result(found, features, notes)


def _several(heads: Any) -> list[Any]:
    from featbank.heads.registry import make_head

    found = list(heads) if isinstance(heads, list | tuple) else [heads]
    for head in found:
        make_head(head)  # before anything is waited for
    return found


def _sets(layers: str | Sequence[str | Sequence[str]] | None) -> list[tuple[str, ...] | None]:
    """Return the sets of layers that rows are on; None is the only layer that there is."""
    if layers is None:
        return [None]
    several = [layers] if isinstance(layers, str) else layers
    found = [tuple(layer_words(one) or ()) for one in several]
    return list(dict.fromkeys(found)) or [None]


def _presets(given: Trainings, parse: Callable[[str], Preset]) -> list[Preset]:
    if isinstance(given, Mapping):
        return [Preset.of(name, words) for name, words in given.items()]
    return [parse(text) for text in ([given] if isinstance(given, str) else given)]


def _recipes(bank: Bank, recipe: str | Sequence[str] | None) -> list[KnownRecipe]:
    words = [recipe] if recipe is None or isinstance(recipe, str) else list(recipe)
    if not bank.recipes:
        raise FeaturesMissing(f"{bank.path} has no features yet; run `featbank extract`.")
    found = [
        choose_recipe(bank.recipes, word, lambda k: bool(bank.columns(k.fingerprint)))
        for word in words
    ]
    for known in found:
        if not bank.columns(known.fingerprint):
            raise FeaturesMissing(f"{known.slug} has no features yet; run `featbank extract`.")
    return list({known.fingerprint: known for known in found}.values())


def _frozen(
    bank: Bank,
    known: Sequence[KnownRecipe],
    heads: Sequence[Any],
    sets: Sequence[tuple[str, ...] | None],
    words: RowWords,
    options: dict[str, Any],
) -> tuple[list[FrozenRow], str, list[str]]:
    """Return the rows of frozen features, what they have in common, and what was left out."""
    from featbank.heads.registry import head_name

    if not heads:
        return [], "", []
    found: list[tuple[KnownRecipe, list[Column]]] = []
    notes, lacking = [], {}
    for wanted in sets:
        there = []
        for one in known:
            try:
                columns = choose_columns(list(bank.columns(one.fingerprint)), wanted, None)
            except FeaturesMissing as error:
                lacking[wanted] = error
                if len(known) > 1:
                    notes.append(f"left out: {one.slug} has no {', '.join(wanted or ())}.")
                continue
            bank.locate(one.recipe, [c.name for c in columns], source=words.source)
            there.append((one, columns))
        if not there:
            raise lacking[wanted]
        found += there
    pairs = list(dict.fromkeys((one.fingerprint, c) for one, columns in found for c in columns))
    by_print = {one.fingerprint: one for one in known}
    names = dict(zip(pairs, names_of([(by_print[f], c) for f, c in pairs]), strict=True))
    rows = []
    for one, columns in found:
        joined = [names[one.fingerprint, column] for column in columns]
        brand = joined[0].partition(" ")[0] + " " if " " in joined[0] else ""
        title = brand + "+".join(name.removeprefix(brand) for name in joined)
        rows += [
            FrozenRow(
                f"{head_name(head)} {title}" if len(found) > 1 else head_name(head),
                words,
                head,
                one.fingerprint,
                tuple(column.name for column in columns),
                options,
            )
            for head in heads
        ]
    features = f"{known[0].recipe.backbone} " if len(known) == 1 else ""
    return rows, (features + title if len(found) == 1 else features).strip(), notes


def _trained(
    known: KnownRecipe,
    presets: Sequence[tuple[str, Preset]],
    words: RowWords,
    **options: Any,
) -> list[TrainedRow]:
    """Return the rows of networks that are trained, each of a kind."""
    if not presets:
        return []
    from featbank.backbones.resolution import resolve
    from featbank.workflows.finetune import settings_for
    from featbank.workflows.trainings import Budget

    Budget.of(options["max_seconds"])
    seed = words.random_state
    rows = []
    for kind, preset in presets:
        title = f"{kind} {preset.name}"
        try:
            if preset.words.get("random_state", seed) != seed:
                raise FineTuneError(
                    "it has a random_state of its own, and all rows share one: --seed "
                    "(random_state=)."
                )
            request = _request(known, preset, seed, from_weights=kind == "finetune")
            settings = settings_for(request, **{**preset.words, "random_state": seed})
        except FineTuneError as error:
            raise FineTuneError(f"{title}: {error}") from error
        rows.append(TrainedRow(title, kind, words, request, resolve(request), settings, **options))
    return rows


def _request(known: KnownRecipe, preset: Preset, seed: int, *, from_weights: bool) -> Request:
    """Return the network that a training begins with."""
    given = dict(preset.model)
    if not from_weights:
        if "model" not in given:
            raise FineTuneError("it names no network; give it a model.")
        if str(given.setdefault("weights", "none")).lower() != "none":
            raise FineTuneError("it begins with weights; give it to finetune.")
    try:
        if "model" in given:
            return Request(**given, seed=seed)
        if "decode" in known.provenance.get("request", {}):
            request = Request.from_dict(known.provenance["request"])
            return dataclasses.replace(request, precision="float32", runtime="auto", **given)
    except (TypeError, AttributeError) as error:
        raise FineTuneError(f"{given} names no network: {error}.") from error
    raise FineTuneError(
        f"{known.slug} was made in Python, and the bank doesn't say how to build it again; choose "
        "a model of `featbank models`."
    )


def _unique(rows: Sequence[FrozenRow | TrainedRow]) -> list[FrozenRow | TrainedRow]:
    """Add a number to a name that a row before has."""
    times: Counter[str] = Counter()
    found = []
    for row in rows:
        times[row.name] += 1
        again = times[row.name]
        found.append(row if again == 1 else dataclasses.replace(row, name=f"{row.name} ({again})"))
    return found
