import importlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a script of the benchmarks, and forget it afterwards."""

    def load(path):
        monkeypatch.syspath_prepend(str((BENCHMARKS / path).parent))
        name = Path(path).stem
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        return module

    return load


def test_steady_rate_leaves_out_each_process_start_and_sums_processes(script, tmp_path):
    def write(process, start_up, seconds_an_image):
        times = [start_up * (i > 15) + i * seconds_an_image for i in range(64)]
        (tmp_path / process).write_bytes(struct.pack("64d", *times))

    write("1", start_up=100.0, seconds_an_image=0.1)
    write("2", start_up=1.0, seconds_an_image=0.2)
    assert script("peers/marks.py").steady_rate(tmp_path) == pytest.approx(10 + 5)


def test_claims_need_a_side_that_ran(script):
    extraction = script("extraction.py")
    case = extraction.CASES[0]
    rates = {"script 0 workers": 10.0, "ceiling: decoding": 400.0, "ceiling: network": 100.0}
    found = {name: {"rate": rate, "rates": [rate, rate / 2]} for name, rate in rates.items()}
    found["featbank"] = {"rate": 76.0, "rates": [76.0, 38.0]}  # the machine was slow at times
    found["featbank torch"] = {"skipped": "failed: it crashed"}
    features = np.ones((3, 4), np.float32)
    extraction.compare(found, {"script 0 workers": features, "featbank": features * 1.5})
    assert found["featbank"]["ratio"] == pytest.approx(7.6)
    assert found["featbank"]["of_ceiling"] == pytest.approx(0.95)
    assert found["featbank"]["error"]["max"] == pytest.approx(0.5)
    held = extraction.claims(case, found)
    assert held["featbank: at least 7 times the script"] is True
    assert held["featbank: at least 90% of the ceiling"] is True
    assert held["featbank: features within 0.0001"] is False
    assert held["featbank torch: features within 0.0001"] is False
    assert held["featbank bfloat16: at least 12 times the script"] is None


def test_a_package_that_is_faster_breaks_the_claim(script):
    extraction = script("extraction.py")
    found = {"featbank": {"rate": 10.0}, "timm": {"rate": 11.0}, "img2vec": {"rate": 9.0}}
    held = extraction.claims(extraction.CASES[1], found)
    assert held["featbank: not slower than timm"] is False
    assert held["featbank: not slower than img2vec"] is True


def test_the_same_jpegs_are_made_each_time_and_no_two_are_alike(script, tmp_path):
    pytest.importorskip("elpv_dataset")
    make = script("extraction.py").make_jpegs
    first = [path.read_bytes() for path in make(tmp_path / "a", (80, 60), 3)]
    again = [path.read_bytes() for path in make(tmp_path / "b", (80, 60), 3)]
    assert first == again
    assert len(set(first)) == 3


def test_a_leak_is_shown_where_the_naive_score_rises_and_featbanks_does_not(script):
    leakage = script("leakage.py")
    X, y = leakage.features(None, 120)
    planted, labels, digests = leakage.with_copies(X, y, 0.0)
    for row, digest in enumerate(digests):
        np.testing.assert_array_equal(planted[row], X[digest])
        assert labels[row] == y[digest]
    assert len(set(leakage.with_copies(X, y, 0.05)[2])) == len(planted) == 180

    def judged(*means):
        return leakage.judged(*(leakage.Estimate(m, m - 0.03, m + 0.03, (m,)) for m in means))

    assert judged(0.8, 0.9, 0.81)["held"] is True
    assert judged(0.8, 0.805, 0.8)["held"] is False
    assert judged(0.8, 0.9, 0.84)["held"] is False
