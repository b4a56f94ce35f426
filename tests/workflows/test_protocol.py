from __future__ import annotations

import numpy as np
import pytest

from featbank import Bank, extract, fit_protocol, from_module, run_protocol
from tests.tiny import PREPROCESS, TinyNet, make_images

SPLITS = ["train" if i % 4 else "test" for i in range(36)]  # in the order of paths


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("protocol")
    paths = make_images(folder / "data", 36)
    rows = [
        f"{path},{path.parent.name},{split},{i % 2},{'u;v' if i % 3 else 'u'}"
        for i, (path, split) in enumerate(zip(paths, SPLITS, strict=True))
    ]
    table = folder / "table.csv"
    table.write_text("\n".join(["path,label,split,parity,marks", *rows]) + "\n")
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny")
    return extract(table, backbone, folder / "bank", workers=0)


def test_a_bank_scores_as_its_features_do(bank: Bank) -> None:
    found = fit_protocol(bank, "fewshot-ridge")
    plain = run_protocol(bank.features(), bank.labels, "fewshot-ridge", splits=SPLITS)

    assert (found.train, found.test) == (27, 9)
    for one, other in zip(found.settings, plain.settings, strict=True):
        np.testing.assert_array_equal(one.predicted, other.predicted)
        for name, estimate in one.metrics.items():
            assert estimate.to_dict() == other.metrics[name].to_dict()


def test_labels_and_splits_are_chosen_with_the_words_of_fit(bank: Bank) -> None:
    by_column = fit_protocol(bank, "fewshot-ridge", label="parity", split="first:6")
    assert (by_column.classes, by_column.train, by_column.test) == (("0", "1"), 12, 24)
    held_out = fit_protocol(bank, "fewshot-ridge", split="none", cv=0.25, exclude=["c"])
    assert (held_out.classes, held_out.test) == (("a", "b"), 6)
    positive = fit_protocol(bank, "fewshot-ridge", positive="parity==1")
    assert positive.classes == ("parity!=1", "parity==1")


def test_images_with_several_labels_have_a_mean_average_precision(
    bank: Bank,
) -> None:
    found = fit_protocol(bank, "voc07-svm", label="marks", multilabel=True, exclude=["u"])

    assert found.classes == ("v",)
    assert 0 < found.settings[0].metrics["voc_map"].mean <= 1
