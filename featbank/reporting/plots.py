"""Plots: how trainings went and what a range test found, as pictures (extra ``plots``).

Figures are made as objects: pyplot, with its windows and its state, is never touched.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank import durable
from featbank.errors import DataError, MissingDependency

if TYPE_CHECKING:
    from featbank.finetuning.range_test import RangeTest

__all__ = ["check_picture", "plot_history", "plot_range_test"]

History = Sequence[Mapping[str, Any]]

_FORMATS = (".png", ".svg", ".pdf")
_NAMED = 10
"""So many trainings have a colour and a name of their own."""
_GREY = "#888888"


def check_picture(path: str | os.PathLike[str]) -> None:
    """Find out before hours of training whether a picture can be made.

    Raises
    ------
    MissingDependency
        matplotlib is not installed.
    DataError
        The name ends in something else than .png, .svg or .pdf.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependency(
            "pictures of curves need matplotlib, which is not installed; run "
            "`pip install 'featbank[plots]'`, or leave the picture out."
        )
    name = os.fspath(path)
    if os.path.splitext(name)[1].lower() not in _FORMATS:
        raise DataError(f"a picture is a file {', '.join(_FORMATS)}, not {name}.")


def plot_history(
    history: History | Mapping[str, History],
    path: str | os.PathLike[str],
    *,
    monitor: str = "loss",
    title: str | None = None,
) -> None:
    """Draw loss, accuracy and learning rate over the epochs of one training or of several.

    Parameters
    ----------
    history : sequence of dict, or dict of str to sequence of dict
        Of one training, as `featbank.finetuning.trainer.train` returns it; or of several, by name.
    path : path
        A file .png, .svg or .pdf, replaced if it is there.
    monitor : {"loss", "accuracy"}
        What was watched: the best epoch by it is marked.
    title : str, optional

    Raises
    ------
    MissingDependency, DataError
        See `check_picture`.
    OSError
        The file can't be written.

    Examples
    --------
    >>> import tempfile
    >>> epochs = [
    ...     {"epoch": 1, "train_loss": 1.1, "train_accuracy": 0.5, "rates": {"head": 0.1}},
    ...     {"epoch": 2, "train_loss": 0.7, "train_accuracy": 0.8, "rates": {"head": 0.01}},
    ... ]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_history(epochs, Path(folder) / "curves.png")
    """
    check_picture(path)
    from matplotlib.ticker import MaxNLocator

    several = history if isinstance(history, Mapping) else {"": history}
    shown = {name: entries for name, entries in several.items() if entries}
    if len(shown) == 1:  # nothing to tell it from
        shown = {"": next(iter(shown.values()))}
    if not shown:
        raise DataError("there is no epoch to draw; a training that goes on has some.")
    figure = _figure(8.4, 6.2)
    axes = figure.subplot_mosaic([["loss", "accuracy"], ["rate", "rate"]], height_ratios=[5, 3])
    last = max(entry["epoch"] for entries in shown.values() for entry in entries)
    for number, (name, entries) in enumerate(shown.items()):
        colour = f"C{number}" if len(shown) <= _NAMED else _GREY
        for key in ("loss", "accuracy"):
            _parts(axes[key], entries, key, name, colour, mark=key == monitor)
        _rates(axes["rate"], entries, name, colour, each_group=len(shown) == 1)
    for key, label in (("loss", "loss"), ("accuracy", "accuracy"), ("rate", "learning rate")):
        axes[key].set_ylabel(label)
        axes[key].set_xlabel("epoch")
        axes[key].set_xlim(0.5, last + 0.5)
        axes[key].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes[key].grid(alpha=0.3)
    axes["rate"].set_yscale("log")
    _legends(figure, axes, shown)
    if title:
        figure.suptitle(title)
    _write(figure, path)


def _parts(axis: Any, entries: History, key: str, name: str, colour: str, *, mark: bool) -> None:
    """Draw the curves of train and valid, and a ring around the best epoch of valid."""
    for part, style in (("train", "--"), ("valid", "-")):
        points = [
            (entry["epoch"], entry[f"{part}_{key}"])
            for entry in entries
            if _is_number(entry.get(f"{part}_{key}"))
        ]
        if not points:
            continue
        if not name:
            colour = {"train": "C0", "valid": "C1"}[part]
        # A curve of one epoch is a dot, and a line through few shows where they are.
        drawn = {"color": colour, "marker": "o" if len(points) <= 12 else "", "markersize": 3}
        width = 0.7 if colour == _GREY else 1.5
        axis.plot(*zip(*points, strict=True), style, linewidth=width, **drawn)
        if part == "valid" and mark:
            best: Callable[..., tuple[int, float]] = min if key == "loss" else max
            epoch, value = best(points, key=lambda point: point[1])
            axis.plot(epoch, value, "o", color=colour, markersize=10, fillstyle="none")


def _rates(axis: Any, entries: History, name: str, colour: str, *, each_group: bool) -> None:
    """Draw the rates of all groups, or the highest alone where other trainings are drawn too."""
    curves: dict[str, list[tuple[int, float]]] = {}
    chosen: Mapping[str, Any]
    for entry in entries:
        rates = entry.get("rates") or {}
        chosen = rates if each_group else {name: max(rates.values(), default=None)}
        for group, rate in chosen.items():
            if _is_number(rate) and rate > 0:
                curves.setdefault(group, []).append((entry["epoch"], rate))
    for number, (group, points) in enumerate(curves.items()):
        own = f"C{number}" if each_group else colour
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, color=own, label=group)
    if each_group and curves:
        axis.legend(fontsize="small", bbox_to_anchor=(1.01, 1.03), loc="upper left")


def _legends(figure: Any, axes: Any, shown: Mapping[str, History]) -> None:
    """Say below the figure which line is which."""
    from matplotlib.lines import Line2D

    watched = any(
        _is_number(entry.get("valid_loss")) or _is_number(entry.get("valid_accuracy"))
        for entries in shown.values()
        for entry in entries
    )
    alone = list(shown) == [""]
    handles = [Line2D([], [], linestyle="--", color="C0" if alone else "black", label="train")]
    if watched:
        own = "C1" if alone else "black"
        ring: dict[str, Any] = {
            "marker": "o",
            "markersize": 10,
            "fillstyle": "none",
            "linestyle": "none",
        }
        handles.append(Line2D([], [], color=own, label="valid"))
        handles.append(Line2D([], [], color=own, label="best epoch", **ring))
    if not alone and len(shown) <= _NAMED:
        handles += [
            Line2D([], [], color=f"C{number}", linewidth=4, label=name)
            for number, name in enumerate(shown)
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))


def plot_range_test(
    result: RangeTest, path: str | os.PathLike[str], *, title: str | None = None
) -> None:
    """Draw the losses of a learning-rate range test over the rates.

    Parameters
    ----------
    result : RangeTest
    path : path
        A file .png, .svg or .pdf, replaced if it is there.
    title : str, optional

    Raises
    ------
    MissingDependency, DataError
        See `check_picture`.
    OSError
        The file can't be written.
    """
    check_picture(path)
    figure = _figure(7.2, 4.6)
    axis = figure.subplots()
    axis.plot(result.rates, result.losses, ".", color=_GREY, markersize=4, label="batch")
    axis.plot(result.rates, result.smoothed, color="C0", label="smoothed")
    axis.set_xscale("log")
    if result.suggestion is not None:
        at = result.rates.index(result.suggestion)
        label = f"steepest: {result.suggestion:.2g} (suggested)"
        axis.plot(result.rates[at], result.smoothed[at], "o", color="C3", label=label)
        axis.axvline(result.suggestion, color="C3", linewidth=1, alpha=0.5)
        at = result.rates.index(result.lowest)
        label = f"least: {result.lowest:.2g}"
        axis.plot(result.rates[at], result.smoothed[at], "s", color="C2", label=label)
    if result.diverged_at is not None:
        label = f"took off: {result.diverged_at:.2g}"
        axis.axvline(result.diverged_at, color="black", linewidth=1, linestyle=":", label=label)
    # What is beyond the start by far would press the rest flat.
    finite = [loss for loss in (*result.smoothed, *result.losses) if math.isfinite(loss)]
    first = [loss for loss in result.smoothed[:5] if math.isfinite(loss)]
    if finite:
        low, high = min(finite), min(max(finite), 2.5 * max(first, default=max(finite)))
        room = 0.05 * (high - low) or 0.1
        axis.set_ylim(low - room, high + room)
    axis.set_title(title or "Learning-rate range test")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss")
    axis.grid(alpha=0.3)
    axis.legend(loc="best", fontsize="small")
    _write(figure, path)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _write(figure: Any, path: str | os.PathLike[str]) -> None:
    name = os.fspath(path)
    picture = io.BytesIO()
    figure.savefig(picture, format=os.path.splitext(name)[1][1:].lower(), dpi=150)
    durable.write_file(Path(name), picture.getvalue())
