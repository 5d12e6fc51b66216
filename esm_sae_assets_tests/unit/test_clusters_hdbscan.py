import importlib.util

import hdbscan
import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import adjusted_rand_score

from esm_sae.clusters.hdbscan_fits import fit_hdbscan, require_backend
from esm_sae.clusters.neighbour_graph import neighbour_graph
from esm_sae.errors import InputError


def blobs(count=12, size=40, width=40, spread=4.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 1, width)) * spread
    blobs = (centres + rng.normal(size=(count, size, width))).reshape(-1, width)
    return np.concatenate([blobs, rng.normal(size=(100, width)) * spread])


def fitted(points, **options):
    return fit_hdbscan(points, **{"min_cluster_size": 6, "min_samples": 3, **options})


@pytest.mark.parametrize("selection", ["eom", "leaf"])
def test_a_fit_holds_what_the_package_finds(selection):
    points = blobs(spread=2.0)
    model = hdbscan.HDBSCAN(
        min_cluster_size=6, min_samples=3, cluster_selection_method=selection, core_dist_n_jobs=1
    ).fit(points)
    fit = fitted(points, selection=selection)
    np.testing.assert_array_equal(fit.labels, model.labels_)
    np.testing.assert_array_equal(fit.probabilities, model.probabilities_)
    np.testing.assert_allclose(fit.tree.score_fitted(), model.outlier_scores_, atol=1e-12)
    assert fit.labels.max() > 3
    assert len(np.unique(fit.tree.score_fitted())) > 50


@pytest.mark.parametrize("selection", ["eom", "leaf"])
@pytest.mark.parametrize("spread", [2.0, 4.0, 400.0])
def test_the_fast_backend_finds_nearly_the_same(selection, spread):
    points = blobs(spread=spread)
    slow = fitted(points, selection=selection)
    fast = fitted(points, selection=selection, backend="fast_hdbscan")
    assert fast.labels.max() > 2
    assert adjusted_rand_score(slow.labels, fast.labels) > 0.95
    assert ((slow.labels < 0) == (fast.labels < 0)).mean() > 0.95
    agreeing = (slow.labels < 0) == (fast.labels < 0)
    gap = np.abs(slow.probabilities - fast.probabilities)[agreeing]
    assert np.median(gap) < 0.01
    gap = np.abs(slow.tree.score_fitted() - fast.tree.score_fitted())
    assert np.median(gap) < 0.01


def test_the_fast_backend_gives_the_same_again():
    points = blobs(spread=1.5)
    one, two = (fitted(points, backend="fast_hdbscan") for _ in range(2))
    assert one.labels.tobytes() == two.labels.tobytes()
    assert one.probabilities.tobytes() == two.probabilities.tobytes()


@pytest.mark.parametrize("backend", ["hdbscan", "fast_hdbscan"])
def test_a_bulk_is_split_into_its_leaves(backend):
    rng = np.random.default_rng(1)
    knots = [centre + 0.1 * rng.normal(size=(12, 4)) for centre in rng.normal(size=(4, 4))]
    far = 40 + 0.1 * rng.normal(size=(10, 4))
    points = np.concatenate([rng.normal(size=(300, 4)), *knots, far])
    options = {"min_cluster_size": 8, "min_samples": 8, "backend": backend}
    fit = fit_hdbscan(points, **options)
    assert fit.selection == "leaf"
    assert fit.labels.max() >= 4
    alone = fit_hdbscan(points, selection="leaf", **options)
    assert alone.labels.tolist() == fit.labels.tolist()
    assert alone.tree.score_fitted().tolist() == fit.tree.score_fitted().tolist()
    assert fit_hdbscan(points, selection="eom", **options).selection == "eom"


@pytest.mark.parametrize("count", [5, 6, 7, 15, 17])
@pytest.mark.parametrize("backend", ["hdbscan", "fast_hdbscan"])
@pytest.mark.parametrize("width", [1, 3])
def test_few_points_are_no_trouble(count, backend, width):
    points = np.random.default_rng(count).normal(size=(count, width))
    fit = fit_hdbscan(points, min_cluster_size=2, min_samples=1, backend=backend)
    assert fit.labels.shape == fit.probabilities.shape == (count,)
    scores = fit.tree.score_fitted()
    assert np.isfinite(fit.probabilities).all()
    assert np.isfinite(scores).all()
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_more_neighbours_than_there_are_points_are_all_of_them():
    points = np.random.default_rng(0).normal(size=(30, 4))
    slow, fast = (
        fitted(points, min_samples=50, backend=name) for name in ("hdbscan", "fast_hdbscan")
    )
    np.testing.assert_array_equal(slow.labels, fast.labels)
    np.testing.assert_allclose(slow.tree.score_fitted(), fast.tree.score_fitted(), atol=1e-6)
    assert slow.tree.score_fitted().max() > 0


def test_a_graph_of_neighbours_holds_the_spanning_tree_of_separate_parts():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(30, 5)) + 100 * rng.normal(size=5) for _ in range(7)]
    points = np.concatenate([*parts, 1000 + rng.normal(size=(2, 5))])
    graph = neighbour_graph(points, 4)
    assert connected_components(graph, directed=False)[0] == 1
    between = np.linalg.norm(points[:, None] - points[None], axis=2)
    rows, columns = graph.nonzero()
    np.testing.assert_allclose(graph.data, between[rows, columns], rtol=1e-9)
    assert (rows != columns).all()
    # Each point's nearest are there, and the shortest way from each part to the rest.
    nearest = np.argsort(between, axis=1)[:, 1:5]
    assert (graph.toarray()[np.arange(len(points))[:, None], nearest] > 0).all()
    part_of = np.minimum(np.arange(len(points)) // 30, 7)
    both = np.maximum(graph.toarray(), graph.toarray().T)
    for part in range(8):
        inside = part_of == part
        shortest = between[np.ix_(inside, ~inside)]
        row, column = np.unravel_index(shortest.argmin(), shortest.shape)
        assert both[np.ix_(inside, ~inside)][row, column] == pytest.approx(shortest.min())


def test_a_backend_that_is_not_there_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^backend is 'fast_hdbscan', .*pip install 'esm-sae\[fa"):
        require_backend("fast_hdbscan")
    with pytest.raises(InputError, match=r"^backend is 'slow'; it must be hdbscan or fast_hdbscan"):
        require_backend("slow")
