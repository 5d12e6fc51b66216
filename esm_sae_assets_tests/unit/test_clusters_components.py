import numpy as np
import pytest

from esm_sae.clusters.components import fit_components
from esm_sae.errors import InputError
from esm_sae.formats.shards import EmbeddingShards, Provenance


def shards_of(tmp_path, *arrays):
    stored = [np.ascontiguousarray(array, dtype=np.float32) for array in arrays]
    paths = [tmp_path / f"part_{number}.npy" for number in range(len(arrays))]
    return EmbeddingShards(tmp_path, paths, stored, Provenance(), "fingerprint", has_index=False)


def test_components_equal_those_of_a_naive_svd(tmp_path, monkeypatch):
    monkeypatch.setattr("esm_sae.clusters.components._BATCH", 17)
    rows = np.random.default_rng(2).normal(size=(100, 6)) @ np.diag([9, 5, 3, 2, 1, 0.1]) + 1000
    shards = shards_of(tmp_path, rows[:33], rows[33:])
    space = fit_components(shards, 4)
    stored = rows.astype(np.float32).astype(np.float64)
    _, values, axes = np.linalg.svd(stored - stored.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(space.variances, values[:4] ** 2 / 100, rtol=1e-5)
    np.testing.assert_allclose(space.explained, (values**2 / (values**2).sum())[:4], rtol=1e-5)
    np.testing.assert_allclose(np.abs(axes[:4] @ space.axes), np.eye(4), atol=1e-5)
    assert (space.axes[np.abs(space.axes).argmax(axis=0), range(4)] > 0).all()
    white = space.project(stored, whitening=1.0)
    np.testing.assert_allclose(white.T @ white / 100, np.eye(4), atol=1e-5)


def test_components_stop_where_the_rows_span_no_more(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 7))
    assert len(fit_components(shards_of(tmp_path, rows), 5).variances) == 2


def test_a_slowly_falling_spectrum_is_found_within_a_thousandth(tmp_path):
    width, wanted = 400, 20
    random = np.random.default_rng(4)
    axes = np.linalg.qr(random.normal(size=(width, width)))[0]
    rows = random.normal(size=(3000, width)) * np.arange(1, width + 1) ** -0.75 @ axes.T + 5
    rows = rows.astype(np.float32).astype(np.float64)
    space = fit_components(shards_of(tmp_path, rows), wanted)
    variances, exact = np.linalg.eigh(np.cov(rows.T, bias=True))
    variances, exact = variances[::-1][:wanted], exact[:, ::-1][:, :wanted]
    np.testing.assert_allclose(space.variances, variances, rtol=1e-3)
    # The same space, and in it nearly the same axes.
    assert np.linalg.svd(exact.T @ space.axes)[1].min() > 0.99
    np.testing.assert_allclose(space.axes.T @ space.axes, np.eye(wanted), atol=1e-12)
    total = np.square(rows - rows.mean(axis=0)).sum() / len(rows)
    np.testing.assert_allclose(space.explained, variances / total, rtol=1e-3)
    np.testing.assert_allclose(space.centre, rows.mean(axis=0), rtol=1e-6)


def test_blocks_beyond_what_the_rows_span_do_no_harm(tmp_path):
    random = np.random.default_rng(5)
    rows = random.normal(size=(300, 3)) * [5, 2, 1] @ random.normal(size=(3, 200))
    space = fit_components(shards_of(tmp_path, rows), 6)
    assert len(space.variances) == 3
    assert space.explained.sum() == pytest.approx(1)
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)[:3]
    np.testing.assert_allclose(space.variances, values**2 / 300, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 11, 13])
def test_narrow_rows_have_as_many_components_as_columns(tmp_path, width):
    rows = np.random.default_rng(0).normal(size=(60, width)) + 100
    space = fit_components(shards_of(tmp_path, rows), 50)
    assert len(space.variances) == width
    assert space.variances.sum() == pytest.approx(rows.var(axis=0).sum(), rel=1e-4)


def test_the_seed_changes_the_search_and_not_the_result(tmp_path):
    random = np.random.default_rng(6)
    rows = random.normal(size=(500, 300)) * np.arange(1, 301) ** -1.0
    shards = shards_of(tmp_path, rows)
    one, again, other = (fit_components(shards, 5, seed=seed) for seed in (1, 1, 2))
    assert one.axes.tobytes() == again.axes.tobytes()
    assert one.axes.tobytes() != other.axes.tobytes()
    np.testing.assert_allclose(one.axes, other.axes, atol=1e-3)


def test_large_numbers_are_no_trouble_and_larger_ones_refused(tmp_path):
    rows = np.random.default_rng(0).normal(size=(50, 8))
    space = fit_components(shards_of(tmp_path, rows * 1e14), 3)
    assert np.isfinite(space.variances).all()
    with pytest.raises(InputError, match=r"row 0 \('part_0:0'\) holds NaN, infinity or a number"):
        fit_components(shards_of(tmp_path, rows * 1e18), 3)
