"""Which rows are trained on and which are held out, and their mean and spread."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig, ZScore
from esm_sae.formats.shards import open_shards
from esm_sae.sae import scaling as scaling_module
from esm_sae.sae.model import Weights, decode, pre_activations, to_dense, top_latents
from esm_sae.sae.rows import RowRuns, SplitChoice, read_rows, split_rows
from esm_sae.sae.scaling import Scaling, fold, measure_rows, require_intact, scaling_of
from esm_sae.split import split_of

OWN = SplitChoice(None, 0)


def numbers_of(runs):
    """Return all row numbers of runs."""
    return runs.at(np.arange(len(runs)))


@given(st.sets(st.integers(0, 60)), st.integers(1, 70), st.data())
def test_runs_are_the_rows_they_were_made_of(chosen, size, data):
    rows = np.array(sorted(chosen), dtype=np.int64)
    runs = RowRuns.of(rows)
    assert len(runs) == len(rows)
    assert len(runs.starts) == sum(row - 1 not in chosen for row in chosen)
    np.testing.assert_array_equal(numbers_of(runs), rows)
    blocks = list(runs.blocks(size))
    assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate([rows[:0], *blocks]), rows)
    if len(rows):
        places = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1))), dtype=np.int64)
        np.testing.assert_array_equal(runs.at(places), rows[places])
        assert runs.at(places).dtype == np.int64


def test_runs_of_all_rows():
    np.testing.assert_array_equal(numbers_of(RowRuns.all(5)), np.arange(5))
    assert len(RowRuns.all(5).starts) == 1
    assert len(RowRuns.all(0)) == 0
    assert list(RowRuns.all(0).blocks(3)) == []


def test_ranges_that_meet_are_one_run():
    runs = RowRuns.between(np.array([2, 5, 9]), np.array([5, 7, 10]))
    np.testing.assert_array_equal(numbers_of(runs), [2, 3, 4, 5, 6, 9])
    np.testing.assert_array_equal(runs.starts, [2, 9])


def test_evenly_spaced_rows():
    rows = np.arange(100) * 2
    runs = RowRuns.of(rows)
    np.testing.assert_array_equal(runs.evenly_spaced(200), rows)
    chosen = runs.evenly_spaced(7)
    assert (chosen[0], chosen[-1], len(np.unique(chosen))) == (0, 198, 7)
    assert len(RowRuns.all(0).evenly_spaced(7)) == 0


@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_the_splits_are_those_of_the_proteins(make_shards, pooling):
    folder, _ = make_shards(proteins=90, count=4, pooling=pooling)
    shards = open_shards(folder)
    rows = split_rows(shards, OWN)
    ids = shards.index.collect()["sequence_id"].to_list()
    for name in ("train", "validation", "test"):
        assert {split_of(ids[row]) for row in numbers_of(getattr(rows, name))} == {name}
    everything = np.concatenate([numbers_of(part) for part in vars(rows).values()])
    np.testing.assert_array_equal(np.sort(everything), np.arange(shards.rows))


def test_a_proteins_residues_are_one_run_and_so_are_neighbours_of_one_split(make_shards):
    folder, matrix = make_shards(proteins=90, count=4, pooling="residue")
    shards = open_shards(folder)
    rows = split_rows(shards, OWN)
    splits = [split_of(f"P{number}") for number in range(90)]
    changes = sum(one != other for one, other in itertools.pairwise(splits))
    assert sum(len(part.starts) for part in vars(rows).values()) == changes + 1 < 60 < len(matrix)


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
    of_split = [
        {cluster[ids[int(row)]] for row in numbers_of(part)} for part in (rows.train, rows.test)
    ]
    assert not of_split[0] & of_split[1]
    assert all(split_of(name, seed=1) == "train" for name in of_split[0])


@pytest.mark.filterwarnings("ignore:.*plain matrices with nothing beside them")
def test_each_row_of_bare_matrices_is_a_protein_of_its_own(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.zeros((40, 2), np.float32))
    rows = split_rows(open_shards(tmp_path), OWN)
    ids = [f"{name}:{row}" for name in ("a", "b") for row in range(40)]
    expected = [row for row, name in enumerate(ids) if split_of(name) == "train"]
    np.testing.assert_array_equal(numbers_of(rows.train), expected)


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
    with pytest.raises(InputError, match="none of its proteins falls into the training split"):
        split_rows(shards, SplitChoice(None, seed))


def test_a_split_may_be_empty(make_shards):
    folder, _ = make_shards(proteins=1, count=1)
    seed = next(seed for seed in range(99) if split_of("P0", seed=seed) == "train")
    rows = split_rows(open_shards(folder), SplitChoice(None, seed))
    assert [len(part) for part in vars(rows).values()] == [1, 0, 0]
    assert read_rows(open_shards(folder), rows.test.evenly_spaced(9)).shape == (0, 8)


def test_a_row_table_of_another_length_is_an_error(make_shards):
    folder, _ = make_shards(proteins=12, count=2)
    shards = open_shards(folder)
    # As if the matrix had been cut off after it was opened and its manifest read.
    shards.arrays[1] = shards.arrays[1][:4]
    with pytest.raises(InputError, match=r"0001-of-0002\.npy: has 4 rows, its row table 6; embed"):
        split_rows(shards, OWN)


def test_mean_and_spread_are_of_the_given_rows_only_and_exact_far_from_0(make_shards, monkeypatch):
    folder, matrix = make_shards(proteins=50, width=4)
    path = folder / "embeddings_0000-of-0003.npy"
    moved = np.load(path) + np.float32(1e4)
    np.save(path, moved)
    matrix[: len(moved)] = moved
    shards = open_shards(folder)
    monkeypatch.setattr(scaling_module, "_ROWS_PER_BLOCK", 3)
    rows = np.array([0, 3, 9, 12])
    statistics = measure_rows(shards, RowRuns.of(rows), covariance=True)
    chosen = matrix[rows].astype(np.float64)
    np.testing.assert_allclose(statistics.mean, chosen.mean(0), rtol=1e-12)
    expected = ((chosen - chosen.mean(0)) ** 2).sum(1).mean()
    np.testing.assert_allclose(statistics.variance, expected, rtol=1e-12)
    np.testing.assert_allclose(
        statistics.covariance, np.cov(chosen.T, ddof=0), rtol=1e-9, atol=1e-9
    )
    for ddof in (0, 1):
        scored = measure_rows(shards, RowRuns.of(rows), normalize=ZScore(ddof, 1e-3))
        centred = chosen - chosen.mean(1, keepdims=True)
        z = centred / (chosen.std(1, keepdims=True, ddof=ddof) + 1e-3)
        np.testing.assert_allclose(scored.mean, z.mean(0), atol=1e-12)


def test_a_row_that_is_no_number_is_named(make_shards):
    folder, _ = make_shards(proteins=12, count=3)
    path = folder / "embeddings_0001-of-0003.npy"
    matrix = np.load(path)
    matrix[2, 5] = np.inf
    np.save(path, matrix)
    with pytest.raises(InputError, match=r"0001-of-0003\.npy: row 2 holds NaN or infinity"):
        measure_rows(open_shards(folder), RowRuns.all(12))


def test_equal_rows_are_an_error(tmp_path, write_shards):
    content = [(f"P{n}", np.ones((1, 4))) for n in range(5)]
    shards = open_shards(write_shards(tmp_path / "equal", content))
    with pytest.raises(InputError, match="all 5 training rows are equal"):
        measure_rows(shards, RowRuns.all(5))


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


def test_all_damaged_shards_are_named_at_once(make_shards):
    folder, _ = make_shards(proteins=60, count=30)
    shards = open_shards(folder)
    for shard in range(2, 27):
        path = folder / f"embeddings_{shard:04d}-of-0030.npy"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError) as error:
        require_intact(shards)
    names = [f"embeddings_{shard:04d}-of-0030.npy" for shard in range(2, 22)]
    assert f"the bytes of {', '.join(names)} and 5 more differ" in str(error.value)


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
    statistics = measure_rows(open_shards(folder), RowRuns.all(200))
    scaling = scaling_of(statistics)
    assert np.log2(scaling.scale).is_integer()
    rms = np.sqrt(statistics.variance / 8)
    assert 2**-0.5 <= scaling.scale / rms <= 2**0.5
    assert scaling.variance == statistics.variance / scaling.scale**2


def test_folded_weights_do_on_raw_rows_what_training_saw(tmp_path):
    generator = np.random.default_rng(0)
    width, latents, k = 8, 32, 4
    shapes = ((latents, width), (latents, width), (latents,), (width,))
    arrays = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]
    weights = Weights(*arrays)
    scaling = Scaling(generator.standard_normal(width).astype(np.float32) * 3, 0.25, 1.0)
    raw = generator.standard_normal((500, width)).astype(np.float32)
    folded = fold(weights, scaling, config=SAEConfig(width, latents, k), path=tmp_path)
    np.testing.assert_array_equal(folded.encoder, arrays[0].T)
    np.testing.assert_array_equal(folded.decoder, arrays[1])
    outer = Weights(folded.encoder.T, folded.decoder, folded.latent_bias, folded.pre_bias)

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
