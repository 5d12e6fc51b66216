import hdbscan
import numpy as np
import pytest
from hdbscan.prediction import approximate_predict, approximate_predict_scores

from esm_sae.clusters.condensed_tree import CondensedTree
from esm_sae.clusters.hdbscan_fits import fit_hdbscan
from esm_sae.clusters.prediction import Predictor


def nested_blobs(seed=0, width=6):
    """Points of a hierarchy, some of them far out, in random order."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, 1, width)) * 12 + rng.normal(size=(4, 3, width)) * 3
    blobs = [centre + rng.normal(size=(40, width)) * 0.7 for centre in centres.reshape(-1, width)]
    return rng.permutation(np.concatenate([*blobs, rng.normal(size=(60, width)) * 12]))


def reference(points, queries, *, min_cluster_size, min_samples, selection):
    """Return labels, probabilities and scores of the package's own prediction."""
    model = hdbscan.HDBSCAN(
        min_cluster_size=min_cluster_size,
        min_samples=min_samples,
        cluster_selection_method=selection,
        core_dist_n_jobs=1,
        prediction_data=True,
    ).fit(points)
    labels, probabilities = approximate_predict(model, queries)
    return labels, probabilities, np.clip(approximate_predict_scores(model, queries), 0, 1)


@pytest.mark.parametrize("selection", ["eom", "leaf"])
@pytest.mark.parametrize(("min_cluster_size", "min_samples"), [(5, 5), (5, 1), (8, 2), (20, 12)])
def test_prediction_is_that_of_the_package(selection, min_cluster_size, min_samples):
    options = {"min_cluster_size": min_cluster_size, "min_samples": min_samples}
    points = nested_blobs()
    fitted, queries = points[:300], np.concatenate([points[300:], points[:40], points[:1] + 1e-9])
    expected = reference(fitted, queries, selection=selection, **options)
    fit = fit_hdbscan(fitted, selection=selection, **options)
    assert fit.labels.max() >= 3
    labels, probabilities, scores = Predictor(fit.tree, fitted, min_samples).predict(queries)
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_allclose(probabilities, expected[1], rtol=1e-9)
    np.testing.assert_allclose(scores, expected[2], rtol=1e-9, atol=1e-12)
    assert len(set(labels.tolist())) > 3
    assert 0 < (probabilities == 1).mean() < 1
    assert 0 < (scores > 0).mean() < 1


def test_a_point_is_predicted_alike_in_any_company():
    points = nested_blobs(width=40)
    fit = fit_hdbscan(points[:300], min_cluster_size=5, min_samples=5, selection="eom")
    predictor = Predictor(fit.tree, points[:300], 5)
    together = predictor.predict(points)
    for size in (9, 200):
        apart = [predictor.predict(points[at : at + size]) for at in range(0, len(points), size)]
        for whole, *parts in zip(together, *apart, strict=True):
            assert np.concatenate(parts).tobytes() == whole.tobytes()


def tree_of(labels, records):
    """A condensed tree given as (parent, child, lambda, size)."""
    kinds = [
        ("parent", np.intp),
        ("child", np.intp),
        ("lambda_val", float),
        ("child_size", np.intp),
    ]
    return CondensedTree(np.array(records, dtype=kinds), np.array(labels))


@pytest.mark.parametrize("mirrored", [1, -1])
def test_of_neighbours_at_the_same_distance_the_first_fitted_counts(mirrored):
    points = mirrored * np.array([[2.0], [-2.0], [3.0], [-3.0]])
    branches = [(4, 5, 0.1, 2), (4, 6, 0.1, 2)]
    leaves = [(5, 0, 0.5, 1), (5, 2, 0.5, 1), (6, 1, 0.5, 1), (6, 3, 0.5, 1)]
    tree = tree_of([0, 1, 0, 1], branches + leaves)
    labels, _, _ = Predictor(tree, points, 1).predict(np.array([[0.0], [0.1 * mirrored], [-0.1]]))
    assert labels[:2].tolist() == [0, 0]
    assert labels[2] == (1 if mirrored == 1 else 0)


def test_both_branches_of_a_cluster_that_splits_whole_belong_to_it():
    points = np.array([[0.0], [1.0], [10.0], [11.0], [90.0], [91.0]])
    # Cluster 7 is selected: it splits into 9 and 10, before a point has left it.
    records = [
        (6, 7, 0.03, 4),
        (6, 8, 0.03, 2),
        (7, 9, 0.1, 2),
        (7, 10, 0.1, 2),
        *[(9 + point // 2, point, 1.0, 1) for point in range(4)],
        *[(8, point, 1.0, 1) for point in (4, 5)],
    ]
    tree = tree_of([0, 0, 0, 0, 1, 1], records)
    labels, probabilities, scores = Predictor(tree, points, 1).predict(
        np.array([[1.5], [9.5], [91.5], [5.5], [50.0]])
    )
    assert labels.tolist() == [0, 0, 1, 0, -1]
    # Against the density at which the cluster ended, and the highest below it.
    assert probabilities.tolist() == pytest.approx([1, 1, 2 / 3, 1, 0], abs=1e-12)
    assert scores.tolist()[3] == pytest.approx(1 - 1 / 4.5)


def test_without_a_cluster_all_is_noise_and_scores_are_against_the_fitted_points():
    points = np.random.default_rng(0).normal(size=(60, 3))
    fit = fit_hdbscan(points, min_cluster_size=40, min_samples=5, selection="auto")
    assert (fit.labels == -1).all()
    queries = np.concatenate([points, [[50.0, 0, 0]]])
    labels, probabilities, scores = Predictor(fit.tree, points, 5).predict(queries)
    assert (labels == -1).all()
    assert (probabilities == 0).all()
    np.testing.assert_allclose(scores[:60], fit.tree.score_fitted(), atol=1e-12)
    assert scores[60] > 0.9
