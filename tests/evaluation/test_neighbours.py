import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from sklearn.metrics.pairwise import cosine_similarity

from featbank.errors import EvaluationError
from featbank.evaluation import NearDuplicates, near_duplicates, neighbours


def clustered(n=300, seed=0):
    """Rows around a third as many directions, so that some are alike and some chains form."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(n // 3, 8))
    return centres[random.integers(len(centres), size=n)] + 0.1 * random.normal(size=(n, 8))


def same_partition(one, other):
    return np.array_equal(one[:, None] == one[None], other[:, None] == other[None])


@pytest.mark.parametrize("threshold", [0.9, 0.98, 0.999])
@pytest.mark.parametrize(("block", "waiting"), [(2048, 1 << 22), (37, 1 << 22), (37, 10)])
def test_clusters_are_the_connected_components_of_all_similarities(
    monkeypatch, threshold, block, waiting
):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    monkeypatch.setattr(neighbours, "WAITING", waiting)
    X = clustered()
    found = near_duplicates(X.astype(np.float32), threshold)
    component = connected_components(cosine_similarity(X) >= threshold, directed=False)[1]
    alone = np.bincount(component)[component] == 1
    np.testing.assert_array_equal(found.cluster < 0, alone)
    assert same_partition(found.cluster[~alone], component[~alone])
    assert found.images == (~alone).sum()
    assert found.clusters == len(np.unique(component[~alone]))
    assert 0 < found.clusters < 300


def test_equal_directions_are_near_whatever_their_length_and_zeros_are_near_nothing():
    X = np.array([[1, 2], [1e30, 2e30], [-1, -2], [0, 0], [0, 0], [2, -1]], dtype=np.float32)
    np.testing.assert_array_equal(near_duplicates(X, 1.0).cluster, [0, 0, -1, -1, -1, -1])


def test_no_square_of_all_rows_is_ever_made():
    import tracemalloc

    X = np.random.default_rng(0).normal(size=(12_000, 4)).astype(np.float32)
    tracemalloc.start()
    near_duplicates(X, 0.9999)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000**2  # bytes: a quarter of that matrix in float32


def test_of_some_rows_a_cluster_that_is_left_with_one_is_none():
    found = NearDuplicates(0.9, np.array([0, 0, 1, 1, -1]))
    part = found.take(np.array([0, 2, 3, 4]))
    np.testing.assert_array_equal(part.cluster, [-1, 0, 0, -1])
    np.testing.assert_array_equal(
        part.spread(np.array([0, 2, 3, 4]), 5).cluster, [-1, -1, 0, 0, -1]
    )


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, float("nan"), "high"])
def test_a_similarity_outside_its_range_is_refused(threshold):
    with pytest.raises(EvaluationError, match=r"cosine similarity in \(0, 1\]"):
        near_duplicates(np.eye(3), threshold)
