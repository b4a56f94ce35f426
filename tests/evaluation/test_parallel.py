from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from featbank.evaluation import cross_validate, parallel
from featbank.evaluation.parallel import run


def whereabouts(values: Any, place: Path) -> tuple[int, int, bool, bool, int]:
    """Tell process, thread, whether the array is mapped and can be written, and BLAS threads."""
    from threadpoolctl import threadpool_info

    base = values
    while base is not None and not isinstance(base, np.memmap):
        base = getattr(base, "base", None)
    threads = max((pool["num_threads"] for pool in threadpool_info()), default=1)
    (place / str(os.getpid())).touch()
    return os.getpid(), threading.get_ident(), base is not None, values.flags.writeable, threads


def test_workers_map_the_features_and_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "START_UP", 0.0)
    X = np.zeros((600, 1000), np.float32)
    told = list(run(whereabouts, [(X, tmp_path)] * 4, n_jobs=2))
    assert all(process != os.getpid() for process, *_ in told)
    for _, _, mapped, writeable, threads in told:
        assert mapped
        assert not writeable
        assert threads <= max(1, (os.cpu_count() or 1) // 2)


def test_quick_tasks_run_here_and_start_no_process(tmp_path: Path) -> None:
    X = np.zeros((600, 1000), np.float32)
    told = list(run(whereabouts, [(X, tmp_path)] * 4, n_jobs=2))
    assert {process for process, *_ in told} == {os.getpid()}


def test_much_work_goes_to_workers_at_once(tmp_path: Path) -> None:
    X = np.zeros((600, 1000), np.float32)
    told = list(run(whereabouts, [(X, tmp_path)] * 2, n_jobs=2, work=1e12))
    assert os.getpid() not in {process for process, *_ in told}


def test_one_job_runs_here_whatever_the_work(tmp_path: Path) -> None:
    X = np.zeros((10, 10), np.float32)
    for n_jobs in (1, None):
        told = list(run(whereabouts, [(X, tmp_path)] * 2, n_jobs=n_jobs, work=1e12))
        assert {process for process, *_ in told} == {os.getpid()}


class TellingRidge(RidgeClassifier):
    """Leaves a file that bears the name of the thread that fitted it."""

    def __init__(self, folder: str = "", alpha: float = 1.0) -> None:
        super().__init__(alpha=alpha)
        self.folder = folder

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TellingRidge:
        Path(self.folder, f"{os.getpid()}-{threading.get_ident()}").touch()
        super().fit(X, y, sample_weight)
        return self


def test_any_backend_of_joblib_fits_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, 5)), random.integers(0, 2, 60)
    alone = cross_validate(X, y, "ridge", tune=False)
    with joblib.parallel_config(backend="threading"):
        threads = cross_validate(X, y, ["ridge", TellingRidge(str(tmp_path))], tune=False, n_jobs=2)
    np.testing.assert_array_equal(
        alone.heads[0].predictions.scores, threads.heads[0].predictions.scores
    )
    fitted_by = {tuple(map(int, path.name.split("-"))) for path in tmp_path.iterdir()}
    assert {process for process, _ in fitted_by} == {os.getpid()}
    assert threading.get_ident() not in {thread for _, thread in fitted_by}
