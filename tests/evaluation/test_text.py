import re

import numpy as np

from featbank import cross_validate
from featbank.evaluation.intervals import Estimate
from featbank.evaluation.text import WIDTH, aligned, interval, points


def test_a_score_is_told_from_low_to_high_and_without_ends_alone():
    assert interval(Estimate(1.0, 0.722, 1.0, ())) == "1.000 [0.722, 1.000]"
    assert interval(Estimate(1.0, np.nan, np.nan, ())) == "1.000"
    assert points(Estimate(-0.0001, -0.02, 0.003, ())) == "+0.0 [-2.0, +0.3]"


def test_a_wide_table_continues_below_with_its_first_column():
    rows = [["head", *(f"metric {i}" for i in range(9))], ["logreg", *["0.900 [0.8, 1.0]"] * 9]]
    lines = aligned(rows)
    assert max(map(len, lines)) <= WIDTH
    assert [line.split()[0] for line in lines if line] == ["head", "logreg"] * 2
    assert " ".join(lines).count("0.900") == 9


def test_no_end_in_a_table_leaves_the_range_of_its_metric():
    """Few images: the ends of a t interval would be at 1.278, and a log loss's below 0."""
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], 9)
    X = random.normal(size=(18, 3)) + 2.5 * y[:, None]
    text = cross_validate(X, y, ["logreg", "lda", "knn"], tune=False).table()
    shares, _, losses = text.partition("probabilities")
    cell = re.compile(r" \d\.\d{3} \[(-?\d+\.\d{3}), (-?\d+\.\d{3})\]")
    ends = np.array(cell.findall(shares), dtype=float)
    assert len(ends) > 6
    assert ends.min() >= 0
    assert ends.max() == 1
    assert np.array(cell.findall(losses), dtype=float).min() == 0
    assert "±" not in text
