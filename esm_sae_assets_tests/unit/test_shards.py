import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.errors import InputError
from esm_sae.formats import shards
from esm_sae.formats.shards import (
    ROW_SCHEMA,
    open_shards,
    parse_shard_key,
    publish_manifest,
    shard_bounds,
    shard_key,
    shard_name,
    shard_paths,
)


def remove(folder, stem):
    for path in folder.glob(f"{stem}.*"):
        path.unlink()


def test_rows_come_in_order_with_their_index(make_shards):
    folder, matrix = make_shards(13, 8, count=3)
    store = open_shards(folder)
    assert (store.rows, store.width) == (13, 8)
    assert [path.name for path in store.paths] == [
        f"embeddings_{n:04d}-of-0003.npy" for n in range(3)
    ]
    assert all(isinstance(array, np.memmap) for array in store.arrays)
    np.testing.assert_array_equal(store.rows_at(np.arange(13)), matrix)
    index = store.index.collect()
    assert dict(index.schema) == ROW_SCHEMA
    assert index["sequence_id"].to_list() == [f"P{number}" for number in range(13)]
    assert index["position"].null_count() == 13
    assert store.provenance.describe() == "esmc_test, layer 3, mean rows"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_at_any_numbers_equal_the_naive_way(make_shards, dtype):
    folder, matrix = make_shards(40, 5, count=7, dtype=dtype)
    store = open_shards(folder)
    generator = np.random.default_rng(0)
    for size in (0, 1, 40, 200):
        numbers = generator.integers(0, 40, size)
        rows = store.rows_at(numbers)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, matrix[numbers].astype(np.float32))


@pytest.mark.parametrize("size", [1, 3, 12, 13, 100])
def test_batches_cover_all_rows_once(make_shards, size):
    folder, matrix = make_shards(13, 4, count=5)
    batches = list(open_shards(folder).batches(size))
    assert [start for start, _ in batches] == list(range(0, 13, size))
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in batches]), matrix)


def test_a_row_past_the_end_is_an_error(make_shards):
    folder, _ = make_shards(13, 4, count=2)
    with pytest.raises(IndexError):
        open_shards(folder).rows_at(np.array([13]))


def test_residue_rows_have_means_beside_them(make_shards):
    folder, matrix = make_shards(6, 4, count=2, pooling="residue")
    store = open_shards(folder)
    means = store.means()
    assert store.rows == len(matrix)
    assert (means.rows, means.provenance.pooling) == (6, "mean")
    index = store.index.collect().with_row_index("row")
    for number in range(6):
        rows = index.filter(pl.col("sequence_id") == f"P{number}")["row"].to_numpy()
        expected = matrix[rows].mean(axis=0)
        np.testing.assert_allclose(means.rows_at(np.array([number]))[0], expected, rtol=1e-6)
    (folder / "means_0001-of-0002.npy").unlink()
    with pytest.raises(InputError, match=r"means_0001-of-0002\.npy: missing"):
        store.means()


def test_mean_rows_are_their_own_means(make_shards):
    store = open_shards(make_shards(4, 4)[0])
    assert store.means() is store


def test_a_missing_shard_is_named(make_shards):
    folder, _ = make_shards(6, 4, count=3)
    remove(folder, "embeddings_0001-of-0003")
    with pytest.raises(InputError, match=r"1 of 3 shards missing \(embeddings_0001-of-0003\)"):
        open_shards(folder)


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_shard_without_manifest_or_rows_is_incomplete(make_shards, suffix):
    folder, _ = make_shards(6, 4, count=3)
    (folder / f"embeddings_0002-of-0003{suffix}").unlink()
    with pytest.raises(InputError, match=r"embeddings_0002-of-0003\.npy: incomplete"):
        open_shards(folder)


def test_a_shard_cut_short_is_refused(make_shards):
    folder, _ = make_shards(6, 4, count=3)
    path = folder / "embeddings_0002-of-0003.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(
        InputError, match=r"embeddings_0002-of-0003\.npy: not the file its manifest"
    ):
        open_shards(folder)


def test_a_renamed_shard_is_refused(make_shards):
    folder, _ = make_shards(6, 4, count=1)
    for path in folder.iterdir():
        path.rename(folder / path.name.replace("0000-of-0001", "0001-of-0002"))
    make_shards(6, 4, count=2)
    for path in folder.glob("*0001-of-0002.json"):
        content = json.loads(path.read_text())
        content["files"] = {"embeddings_0000-of-0001.npy": {"bytes": 1, "sha256": "0" * 64}}
        path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="not the file its manifest records"):
        open_shards(folder)


def test_shards_of_two_splits_are_refused(make_shards):
    folder, _ = make_shards(6, 4, count=3)
    make_shards(6, 4, count=2)
    with pytest.raises(InputError, match="a split into 2 beside shards of a split into 3"):
        open_shards(folder)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"encoder": "esmc_other"}, "provenance"),
        ({"options": {"layer": 1}}, "options"),
        ({"dtype": "float16"}, "options"),
    ],
)
def test_shards_of_two_origins_are_refused_with_both_named(make_shards, change, field):
    folder, _ = make_shards(6, 4, count=3)
    other, _ = make_shards(6, 4, count=3, name="other", **change)
    for path in other.glob("*_0001-of-0003.*"):
        path.replace(folder / path.name)
    with pytest.raises(InputError, match=f"differ in {field}") as caught:
        open_shards(folder)
    for named in ("embeddings_0000-of-0003.npy", "embeddings_0001-of-0003.npy"):
        assert named in str(caught.value)


def test_shards_of_two_widths_are_refused_with_both_named(make_shards):
    folder, _ = make_shards(6, 4, count=3)
    other, _ = make_shards(6, 5, count=3, name="other")
    for path in other.glob("*_0001-of-0003.*"):
        path.replace(folder / path.name)
    with pytest.raises(InputError, match="5 wide") as caught:
        open_shards(folder)
    for named in ("embeddings_0000-of-0003.npy", "embeddings_0001-of-0003.npy"):
        assert named in str(caught.value)


def test_a_bare_folder_is_accepted_in_natural_order_with_one_warning(tmp_path):
    generator = np.random.default_rng(0)
    matrices = {number: generator.standard_normal((3, 4), np.float32) for number in (2, 10, 1)}
    for number, matrix in matrices.items():
        np.save(tmp_path / f"batch_{number}.npy", matrix)
    with pytest.warns(UserWarning, match="encoder, layer and pooling are unknown") as caught:
        store = open_shards(tmp_path)
    assert len(caught) == 1
    assert [path.name for path in store.paths] == ["batch_1.npy", "batch_2.npy", "batch_10.npy"]
    expected = np.concatenate([matrices[number] for number in (1, 2, 10)])
    np.testing.assert_array_equal(store.rows_at(np.arange(9)), expected)
    assert not store.provenance.known
    assert store.provenance.describe() == "embeddings of unknown provenance"
    index = store.index.collect()
    assert index["sequence_id"].to_list()[3:5] == ["batch_2:0", "batch_2:1"]
    assert dict(index.schema) == ROW_SCHEMA


def test_bare_matrices_of_two_widths_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 4), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((2, 5), np.float32))
    with pytest.raises(InputError, match=r"b\.npy: rows are 5 wide, those of a\.npy are 4"):
        open_shards(tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array({"enc": 1}, dtype=object), "not a plain .npy matrix"),
        (np.array([np.zeros(2), None], dtype=object), "not a plain .npy matrix"),
        (np.zeros((3, 4)), "expected a float32 or float16"),
        (np.zeros(3, np.float32), "expected a float32 or float16"),
        (np.zeros((2, 3, 4), np.float32), "expected a float32 or float16"),
        (np.zeros((3, 4), np.int64), "expected a float32 or float16"),
        (np.zeros((3, 4), "V2"), "expected a float32 or float16"),
        (np.zeros((0, 4), np.float32), "x.npy: "),
    ],
    ids=["dictionary", "objects", "float64", "vector", "tensor", "integers", "bfloat16", "empty"],
)
def test_files_that_are_no_matrix_of_embeddings_are_refused(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        open_shards(tmp_path)


def test_a_damaged_file_or_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.npy embedding matrices"):
        open_shards(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"no numpy")
    with pytest.raises(InputError, match=r"x\.npy: not a plain \.npy matrix"):
        open_shards(tmp_path)
    with pytest.raises(InputError, match="no such directory"):
        open_shards(tmp_path / "missing")


def test_the_manifest_of_all_shards(make_shards):
    folder, _ = make_shards(13, 4, count=3)
    first = publish_manifest(folder, count=3)
    assert not first.unchanged
    assert publish_manifest(folder, count=3).unchanged
    summary = first.manifest.summary
    assert (summary["shards"], summary["rows"], summary["width"]) == (3, 13, 4)
    assert summary["proteins"] == 13
    assert len(first.manifest.files) == 6
    with pytest.raises(InputError, match="holds 3 shards, expected 4"):
        publish_manifest(folder, count=4)


def test_a_new_split_replaces_the_old_one_once_it_is_complete(make_shards):
    folder, matrix = make_shards(13, 4, count=2)
    make_shards(13, 4, count=3)
    missing = folder / "embeddings_0001-of-0003.json"
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(InputError, match="split into 2 beside shards of a split into 3"):
        publish_manifest(folder, count=3)
    missing.write_bytes(content)
    assert publish_manifest(folder, count=3).manifest.summary["rows"] == 13
    assert not list(folder.glob("*-of-0002.*"))
    np.testing.assert_array_equal(open_shards(folder).rows_at(np.arange(13)), matrix)


def test_the_unfinished_work_of_another_split_goes_with_it(make_shards):
    folder, _ = make_shards(13, 4, count=3)
    works = [
        folder / f".{name}.{'0' * 16}.work"
        for name in ("embeddings_0001-of-0002.npy", "embeddings_0001-of-0003.npy", "other.npy")
    ]
    for work in works:
        work.mkdir()
        (work / "rows.npy").write_bytes(b"rows")
    publish_manifest(folder)
    assert all(work.is_dir() for work in works)
    publish_manifest(folder, count=3)
    assert [work.is_dir() for work in works] == [False, True, True]


def test_one_shard_of_other_content_changes_every_version(make_shards):
    folder, _ = make_shards(13, 4, count=3)
    manifest, store = publish_manifest(folder).manifest, open_shards(folder)
    make_shards(13, 4, count=3, seed=1, name="other")
    for path in (folder.parent / "other").glob("*_0001-of-0003.*"):
        path.replace(folder / path.name)
    assert publish_manifest(folder).manifest.data_version != manifest.data_version
    assert open_shards(folder).fingerprint != store.fingerprint


def test_the_place_of_a_store_is_not_in_its_fingerprint(make_shards):
    one, other = (open_shards(make_shards(name=name)[0]) for name in ("one", "other"))
    assert one.fingerprint == other.fingerprint


@given(st.integers(0, 400), st.integers(1, 70))
def test_shards_are_contiguous_and_equal_within_one_sequence(sequences, count):
    bounds = [shard_bounds(index, count, sequences) for index in range(count)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == sequences
    assert all(one[1] == two[0] for one, two in itertools.pairwise(bounds))
    sizes = {stop - start for start, stop in bounds}
    assert max(sizes) - min(sizes) <= 1


def test_shard_names():
    assert shard_name(7, 64) == "embeddings_0007-of-0064"
    assert shard_name(7, 64, shards.MEANS) == "means_0007-of-0064"
    key = "0007-of-0064"
    assert [path.name for path in shard_paths(Path("x"), 7, 64, with_means=True)] == [
        f"embeddings_{key}.npy",
        f"embeddings_{key}.parquet",
        f"means_{key}.npy",
        f"means_{key}.parquet",
    ]
    assert len(shard_paths(Path("x"), 7, 64, with_means=False)) == 2
    assert parse_shard_key(shard_key(7, 64)) == (7, 64)
    for key in ("7", "0064-of-0064", "x-of-y", ""):
        with pytest.raises(InputError, match="expected a key such as"):
            parse_shard_key(key)


def test_a_good_store_opens_without_a_warning(make_shards):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_shards(make_shards()[0])


def test_a_row_table_cut_short_is_refused(make_shards):
    folder, _ = make_shards(6, 4, count=3)
    (folder / "embeddings_0001-of-0003.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"0001-of-0003\.parquet: not the file its manifest"):
        open_shards(folder)


def test_a_damaged_header_of_a_matrix_is_one_error(tmp_path):
    header = b"{'descr': '<f4', 'shape': (10"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(118))
    with pytest.raises(InputError, match=r"a\.npy: not a plain \.npy matrix"):
        open_shards(tmp_path)
