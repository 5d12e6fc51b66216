"""Which rows are trained on, their order, and their mean and spread."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.shards import open_shards
from esm_sae.sae.model import Weights, decode, pre_activations, to_dense, top_latents
from esm_sae.sae.rows import (
    SplitChoice,
    epoch_order,
    evenly_spaced,
    split_rows,
    training_batches,
)
from esm_sae.sae.scaling import Scaling, fold, measure_rows, require_intact, scaling_of
from esm_sae.split import split_of

OWN = SplitChoice(None, 0)


def test_the_splits_are_those_of_the_proteins(make_shards):
    folder, _ = make_shards(proteins=60, pooling="residue")
    shards = open_shards(folder)
    rows = split_rows(shards, OWN)
    ids = shards.index.collect()["sequence_id"].to_list()
    for name in ("train", "validation", "test"):
        assert {split_of(ids[row]) for row in getattr(rows, name)} == {name}
    everything = np.concatenate([rows.train, rows.validation, rows.test])
    np.testing.assert_array_equal(np.sort(everything), np.arange(shards.rows))


def test_a_similarity_cluster_is_held_out_whole(make_shards, tmp_path):
    folder, _ = make_shards(proteins=60, pooling="residue")
    shards = open_shards(folder)
    ids = shards.index.collect()["sequence_id"]
    table = pl.DataFrame({"sequence_id": ids.unique(maintain_order=True)}).with_columns(
        cluster_id=pl.int_range(pl.len()).floordiv(6).cast(pl.String)
    )
    table.write_parquet(tmp_path / "clusters.parquet")
    rows = split_rows(shards, SplitChoice(tmp_path / "clusters.parquet", 1))
    cluster = dict(table.iter_rows())
    of_split = [{cluster[ids[int(row)]] for row in part} for part in (rows.train, rows.test)]
    assert not of_split[0] & of_split[1]
    assert all(split_of(name, seed=1) == "train" for name in of_split[0])


def test_the_record_of_a_split_names_the_tables_content(tmp_path):
    table = tmp_path / "clusters.parquet"
    table.write_bytes(b"one")
    one = SplitChoice(table, 0).record()
    table.write_bytes(b"two")
    assert one != SplitChoice(table, 0).record()
    assert OWN.record() == {"seed": 0, "similarity_clusters": None}


def test_nothing_to_train_on_is_an_error(make_shards):
    folder, _ = make_shards(proteins=1, count=1)
    shards = open_shards(folder)
    seed = next(seed for seed in range(99) if split_of("P0", seed=seed) != "train")
    with pytest.raises(InputError, match="none of its 1 proteins falls into the training split"):
        split_rows(shards, SplitChoice(None, seed))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 3))
def test_every_row_comes_once_per_epoch_the_tail_included(count, batch_size, epoch):
    class Shards:
        width = 2

        def rows_at(self, indices):
            return np.stack([indices, indices + 0.5], axis=1).astype(np.float32)

    rows = np.arange(count) * 3
    order = epoch_order(rows, seed=5, epoch=epoch)
    batches = list(training_batches(Shards(), order, batch_size))
    assert {len(batch) for batch, _ in batches} == {batch_size}
    real = np.concatenate([batch[mask == 1, 0] for batch, mask in batches])
    np.testing.assert_array_equal(np.sort(real), rows)
    for batch, mask in batches:
        assert not batch[mask == 0].any()


def test_the_order_is_a_function_of_seed_and_epoch_over_all_rows():
    rows = np.arange(10_000)
    first = epoch_order(rows, seed=1, epoch=1)
    np.testing.assert_array_equal(first, epoch_order(rows, seed=1, epoch=1))
    for other in (epoch_order(rows, seed=1, epoch=2), epoch_order(rows, seed=2, epoch=1)):
        assert (first == other).mean() < 0.01
    # Rows are mixed over all shards, not within blocks of neighbours.
    assert np.abs(np.sort(first[:1000]) - np.arange(1000) * 10).max() < 1500


def test_evenly_spaced_rows():
    rows = np.arange(100) * 2
    np.testing.assert_array_equal(evenly_spaced(rows, 200), rows)
    chosen = evenly_spaced(rows, 7)
    assert (chosen[0], chosen[-1], len(np.unique(chosen))) == (0, 198, 7)


def test_mean_and_spread_are_of_the_given_rows_only_and_exact_far_from_0(make_shards):
    folder, matrix = make_shards(proteins=50, width=4)
    path = folder / "embeddings_0000-of-0003.npy"
    moved = np.load(path) + np.float32(1e4)
    np.save(path, moved)
    matrix[: len(moved)] = moved
    shards = open_shards(folder)
    rows = np.array([0, 3, 9, 12])
    statistics = measure_rows(shards, rows, covariance=True)
    chosen = matrix[rows].astype(np.float64)
    np.testing.assert_allclose(statistics.mean, chosen.mean(0), rtol=1e-12)
    expected = ((chosen - chosen.mean(0)) ** 2).sum(1).mean()
    np.testing.assert_allclose(statistics.variance, expected, rtol=1e-12)
    np.testing.assert_allclose(
        statistics.covariance, np.cov(chosen.T, ddof=0), rtol=1e-9, atol=1e-9
    )
    scored = measure_rows(shards, rows, normalize=True)
    z = (chosen - chosen.mean(1, keepdims=True)) / (chosen.std(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(scored.mean, z.mean(0), atol=1e-12)


def test_a_row_that_is_no_number_is_named(make_shards):
    folder, _ = make_shards(proteins=12, count=3)
    path = folder / "embeddings_0001-of-0003.npy"
    matrix = np.load(path)
    matrix[2, 5] = np.inf
    np.save(path, matrix)
    with pytest.raises(InputError, match=r"0001-of-0003\.npy: row 2 holds NaN or infinity"):
        measure_rows(open_shards(folder), np.arange(12))


def test_equal_rows_are_an_error(tmp_path, write_shards):
    content = [(f"P{n}", np.ones((1, 4))) for n in range(5)]
    shards = open_shards(write_shards(tmp_path / "equal", content))
    with pytest.raises(InputError, match="all 5 training rows are equal"):
        measure_rows(shards, np.arange(5))


def test_a_flipped_byte_is_found_and_the_shard_named(make_shards):
    folder, _ = make_shards()
    shards = open_shards(folder)
    require_intact(shards)
    path = folder / "embeddings_0002-of-0003.npy"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"0002-of-0003\.npy: its bytes differ"):
        require_intact(shards)


@pytest.mark.parametrize("place", [2, 0.5, -20, -1])
def test_a_flipped_byte_of_a_row_table_is_found_and_the_table_named(make_shards, place):
    folder, _ = make_shards()
    shards = open_shards(folder)
    path = folder / "embeddings_0001-of-0003.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place == 0.5 else place] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"0001-of-0003\.parquet: its bytes differ.*embed this"):
        split_rows(shards, OWN)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 700.0])
def test_the_scale_is_the_power_of_two_nearest_the_rms(make_shards, factor):
    folder, _ = make_shards(proteins=200, width=8, seed=1)
    for path in folder.glob("*.npy"):
        np.save(path, np.load(path) * np.float32(factor))
    statistics = measure_rows(open_shards(folder), np.arange(200))
    scaling = scaling_of(statistics)
    assert np.log2(scaling.scale).is_integer()
    rms = np.sqrt(statistics.variance / 8)
    assert 2**-0.5 <= scaling.scale / rms <= 2**0.5
    assert scaling.variance == statistics.variance / scaling.scale**2


def test_folded_weights_do_on_raw_rows_what_training_saw(tmp_path):
    generator = np.random.default_rng(0)
    width, latents, k = 8, 32, 4
    shapes = ((width, latents), (latents, width), (latents,), (width,))
    arrays = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]
    weights = Weights(*arrays)
    scaling = Scaling(generator.standard_normal(width).astype(np.float32) * 3, 0.25, 1.0)
    raw = generator.standard_normal((500, width)).astype(np.float32)
    folded = fold(weights, scaling, config=SAEConfig(width, latents, k), path=tmp_path)
    np.testing.assert_array_equal(folded.encoder, arrays[0])
    np.testing.assert_array_equal(folded.decoder, arrays[1])
    outer = Weights(folded.encoder, folded.decoder, folded.latent_bias, folded.pre_bias)

    def run(weights, rows):
        values, chosen = top_latents(pre_activations(weights, rows), k)
        activations = to_dense(values, chosen, latents)
        return np.asarray(activations), np.asarray(decode(weights, activations))

    inside, x_inside = run(weights, (raw - scaling.centre) / scaling.scale)
    outside, x_outside = run(outer, raw)
    same = ((inside > 0) == (outside > 0)).all(1)
    assert same.mean() > 0.99
    np.testing.assert_allclose(outside[same], inside[same] * scaling.scale, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        x_outside[same], x_inside[same] * scaling.scale + scaling.centre, rtol=1e-3, atol=1e-4
    )
