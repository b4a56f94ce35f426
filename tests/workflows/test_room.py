from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, Classifier, extract, fit, from_module
from featbank.errors import BankError, EvaluationError, HeadError
from featbank.heads.choice import LayerChoice
from featbank.heads.streaming import Blocks
from featbank.workflows.room import select_fitting
from tests.tiny import PREPROCESS, TinyNet, make_images


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("room")
    make_images(folder / "data", 30)
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny")
    return extract(folder / "data", backbone, folder / "bank", workers=0)


def test_features_that_do_not_fit_are_streamed_and_saved_as_ever(
    bank: Bank, tmp_path: Path
) -> None:
    whole = fit(bank, "logreg", tune=False, cv=3)
    result = fit(bank, "logreg", tune=False, cv=3, memory="1kB", out=tmp_path)

    assert any("were read in blocks" in note for note in result.notes)
    assert not any("were read in blocks" in note for note in whole.notes)
    np.testing.assert_array_equal(
        result.heads[0].predictions.y_pred, whole.heads[0].predictions.y_pred
    )
    again = Classifier.load(result.heads[0].classifier or "")
    assert again.predict(bank.features()) == bank.labels.tolist()


def test_a_head_that_can_not_stream_is_refused_before_anything_is_read(bank: Bank) -> None:
    with pytest.raises(HeadError) as caught:
        fit(bank, ["svm", "logreg"], memory="1kB")
    assert "svm would need" in str(caught.value)
    assert "use logreg or mlp" in str(caught.value)


def test_a_size_that_is_none_is_refused(bank: Bank) -> None:
    with pytest.raises(EvaluationError, match="not 'much'"):
        fit(bank, "logreg", memory="much")


def test_the_bank_is_held_while_it_is_streamed(bank: Bank) -> None:
    chosen = select_fitting(bank, ["logreg"], bank.locate(), memory="1kB", n_jobs=2)
    assert chosen.n_jobs == 1
    assert isinstance(chosen.selection.X, Blocks)
    np.testing.assert_array_equal(np.concatenate(list(chosen.selection.X)), bank.features())
    with pytest.raises(BankError), bank.alone():
        pass
    del chosen
    with bank.alone():
        pass


def test_fewer_fits_run_at_a_time_where_more_have_no_room(bank: Bank) -> None:
    size = bank.features().nbytes
    jobs = [
        select_fitting(bank, ["svm"], bank.locate(), memory=copies * size, n_jobs=4).n_jobs
        for copies in (3, 6, 8, 10)
    ]
    assert jobs == [1, 2, 3, 4]


def test_a_layer_is_chosen_in_memory_only(bank: Bank) -> None:
    with pytest.raises(EvaluationError, match=r"choosing a layer needs .*; name one layer"):
        select_fitting(bank, [LayerChoice("logreg", {})], bank.locate(), memory="1kB", n_jobs=1)
