import importlib.util
import sys

import numpy as np
import pytest
from PIL import Image

from featbank.errors import DataError, MissingDependency
from featbank.finetuning.range_test import RangeTest
from featbank.reporting import plots
from featbank.reporting.plots import check_picture, plot_history, plot_range_test


def epochs(n, *, valid=True, phase="all"):
    return [
        {
            "epoch": e,
            "phase": phase,
            "train_loss": 2.0 / e,
            "train_accuracy": 1 - 0.5 / e,
            "valid_loss": 1.0 + (e - 3) ** 2 / 10 if valid else None,
            "valid_accuracy": 0.5 + 0.01 * e if valid else None,
            "rates": {"stage 1": 1e-3 / e, "head": 1e-2 / e},
            "seconds": 1.0,
        }
        for e in range(1, n + 1)
    ]


def drawn(monkeypatch, call, *words, **options):
    """Return the figure that a function draws, written nowhere."""
    figures = []
    monkeypatch.setattr(plots, "_write", lambda figure, path: figures.append(figure))
    call(*words, "curves.png", **options)
    return figures[0]


def lines(figure, label):
    """Return the lines in the axes with this label, as (style, x, y)."""
    axis = next(axis for axis in figure.axes if axis.get_ylabel() == label)
    return [(line.get_linestyle(), *map(list, line.get_data())) for line in axis.lines]


def names(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_history_is_drawn_as_it_was(monkeypatch):
    history = epochs(6)
    figure = drawn(monkeypatch, plot_history, history, title="resnet18")

    losses = lines(figure, "loss")
    assert ("--", [1, 2, 3, 4, 5, 6], [e["train_loss"] for e in history]) in losses
    assert ("-", [1, 2, 3, 4, 5, 6], [e["valid_loss"] for e in history]) in losses
    rates = [y for _, _, y in lines(figure, "learning rate")]
    assert [e["rates"]["stage 1"] for e in history] in rates
    assert [e["rates"]["head"] for e in history] in rates
    assert names(figure) == ["train", "valid", "best epoch"]


@pytest.mark.parametrize(
    ("monitor", "label", "epoch"), [("loss", "loss", 3), ("accuracy",) * 2 + (6,)]
)
def test_the_best_epoch_is_marked_where_it_was_watched(monkeypatch, monitor, label, epoch):
    history = epochs(6)
    figure = drawn(monkeypatch, plot_history, history, monitor=monitor)

    marked = {
        axis: [x for _, x, _ in lines(figure, axis) if len(x) == 1] for axis in ("loss", "accuracy")
    }
    assert marked.pop(label) == [[epoch]]
    assert list(marked.values()) == [[]]


def test_several_trainings_bear_their_names(monkeypatch):
    figure = drawn(monkeypatch, plot_history, {"transfer": epochs(5), "scratch": epochs(3)})

    assert names(figure) == ["train", "valid", "best epoch", "transfer", "scratch"]
    assert sorted(len(x) for _, x, _ in lines(figure, "accuracy")) == [3, 3, 5, 5]
    assert [max(y) for _, _, y in lines(figure, "learning rate")] == [1e-2, 1e-2]


def test_very_many_trainings_are_drawn_without_names(monkeypatch):
    figure = drawn(monkeypatch, plot_history, {str(i): epochs(3) for i in range(30)})

    assert names(figure) == ["train", "valid", "best epoch"]
    assert len(lines(figure, "accuracy")) == 60


def test_what_was_not_watched_is_not_drawn(monkeypatch):
    figure = drawn(monkeypatch, plot_history, epochs(4, valid=False))

    assert names(figure) == ["train"]
    assert len(lines(figure, "loss")) == 1


FOUND = RangeTest(
    rates=tuple(np.geomspace(1e-4, 1, 9)),
    losses=(2.0, 2.1, 1.8, 1.2, 0.8, 0.7, 0.9, 4.0, float("inf")),
    smoothed=(2.0, 2.05, 1.9, 1.5, 1.1, 0.9, 0.9, 2.0, float("inf")),
    suggestion=float(np.geomspace(1e-4, 1, 9)[4]),
    lowest=float(np.geomspace(1e-4, 1, 9)[5]),
    diverged_at=1.0,
)


def test_a_range_test_is_drawn_as_it_was(monkeypatch):
    figure = drawn(monkeypatch, plot_range_test, FOUND)

    curves = lines(figure, "training loss")
    assert list(FOUND.losses) in [y for _, _, y in curves]
    assert list(FOUND.smoothed) in [y for _, _, y in curves]
    assert [FOUND.suggestion] in [x for _, x, _ in curves]
    axis = figure.axes[0]
    assert axis.get_xscale() == "log"
    assert axis.get_ylim()[1] < 10, "what took off does not press the rest flat"
    said = [text.get_text() for text in axis.get_legend().get_texts()]
    assert said == [
        *("batch", "smoothed", "steepest: 0.01 (suggested)", "least: 0.032", "took off: 1"),
    ]


@pytest.mark.parametrize("ending", ["png", "PNG", "svg", "pdf"])
def test_a_picture_is_of_the_kind_that_its_name_says(tmp_path, ending):
    path = tmp_path / f"curves.{ending}"
    path.write_text("old")
    plot_history(epochs(2), path)

    head = path.read_bytes()[:400]
    assert {"png": b"PNG", "svg": b"<svg", "pdf": b"%PDF"}[ending.lower()] in head
    if ending == "png":
        with Image.open(path) as picture:
            assert len(picture.getcolors(2**24)) > 50
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_pictures_leave_pyplot_alone(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    plot_range_test(FOUND, tmp_path / "range.png")

    assert ("matplotlib.pyplot" in sys.modules) == before


def test_a_picture_that_can_not_be_made_is_refused_beforehand(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"\.png, \.svg, \.pdf, not .*curves\.gif"):
        check_picture(tmp_path / "curves.gif")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"featbank\[plots\]"):
        check_picture(tmp_path / "curves.png")


@pytest.mark.parametrize("history", [[], {"fold 1": []}])
def test_no_epoch_is_no_picture(tmp_path, history):
    with pytest.raises(DataError, match="no epoch to draw"):
        plot_history(history, tmp_path / "curves.png")
