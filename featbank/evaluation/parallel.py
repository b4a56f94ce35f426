"""Parallel runs: tasks side by side through joblib, once they take longer than starting workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from featbank.errors import EvaluationError

__all__ = ["Progress", "run"]

Progress = Callable[[int, int], None]
"""Is told how many tasks are done, and how many there are."""

START_UP = 2.0  # seconds that workers take to import scikit-learn
LARGE = 1 << 29  # numbers that tasks read at least once; many times that many operations


def run(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    *,
    n_jobs: int | None,
    work: float = 0.0,
    progress: Progress | None = None,
) -> Iterator[Any]:
    """Yield what `function` returns for each task's arguments, in their order.

    joblib's own worker processes are started at once where there is much work, else only when the
    tasks have taken, here, as long as starting takes: what is done by then would have waited for
    them, and what isn't is hardly delayed. Under any other backend (`joblib.parallel_config`) all
    tasks go to it. Workers map large arrays and share the cores for linear algebra.

    Parameters
    ----------
    function : callable
        That workers can import.
    tasks : sequence of tuple
    n_jobs : int or None
        As in joblib.
    work : float
        Numbers that all tasks together read, at least.
    progress : callable, optional
        Called after each task.

    Raises
    ------
    EvaluationError
        `n_jobs` is 0, or no whole number.
    """
    if n_jobs is not None and (not isinstance(n_jobs, int | np.integer) or n_jobs == 0):
        raise EvaluationError(
            f"n_jobs is {n_jobs!r}; give the number of fits at a time, or -1: one a core."
        )
    for done, result in enumerate(_results(function, tasks, n_jobs, work), start=1):
        if progress is not None:
            progress(done, len(tasks))
        yield result


def _results(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], n_jobs: int | None, work: float
) -> Iterator[Any]:
    from joblib import Parallel, delayed, effective_n_jobs
    from joblib.parallel import get_active_backend
    from threadpoolctl import threadpool_limits

    backend, _ = get_active_backend()
    waiting = list(tasks)
    if type(backend).__name__ == "LokyBackend":
        alone = effective_n_jobs(n_jobs) == 1
        end = time.perf_counter() + (START_UP if work < LARGE else 0)
        # With threads for each core, BLAS spends more on small products than it gains.
        with contextlib.nullcontext() if alone else threadpool_limits(1):
            while waiting and (alone or time.perf_counter() < end):
                yield function(*waiting.pop(0))
    if len(waiting) > 1:
        yield from Parallel(n_jobs=n_jobs, return_as="generator")(
            delayed(function)(*task) for task in waiting
        )
    elif waiting:
        yield function(*waiting[0])
