"""Shards and their common manifest on object storage, brought apart from one another."""

import json
import os

import numpy as np
import pytest

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import (
    Product,
    read_manifest,
)
from esm_sae.formats.shards import open_shards, publish_manifest
from esm_sae.formats.verification import product_at


@pytest.fixture
def shards(write_shards, random_proteins):
    """Return a function that writes shards of random rows into a folder."""

    def write(folder, *, count=2, seed=0):
        generator = np.random.default_rng(seed)
        proteins = [
            (header, generator.standard_normal((1, 4)).astype(np.float32))
            for header, _ in random_proteins(6)
        ]
        return write_shards(folder, proteins, count=count)

    return write


def push_shards(mirror, shards, **options):
    folder = shards(mirror.folder / "embeddings3", **options)
    for path in sorted(folder.glob("*-of-*.json")):
        mirror.push(shard_at(path))
    return folder


def shard_at(path):
    manifest = read_manifest(path)
    assert manifest is not None
    return Product(path.with_suffix(".npy"), manifest, path, unchanged=False)


def bring_tables(mirror, count=2):
    names = [f"embeddings3/embeddings_{n:04d}-of-{count:04d}.json" for n in range(count)]
    names.append("embeddings3/manifest.json")
    mirror.bring(names, hold="embeddings3", without=".npy")
    return mirror.folder / "embeddings3"


def test_one_shard_is_brought_without_the_others(machine, shards):
    push_shards(machine(), shards)
    two = machine("two")
    two.bring(["embeddings3/embeddings_0001-of-0002.json"])
    assert {path.name for path in (two.folder / "embeddings3").glob("*.npy")} == {
        "embeddings_0001-of-0002.npy"
    }


def test_the_common_manifest_is_made_and_read_without_the_matrices(machine, shards):
    folder = push_shards(machine(), shards)
    two = machine("two")
    product = publish_manifest(bring_tables(two), count=2, matrices=False)
    two.push(product)
    assert not [name for name in two.store.fetched if name.endswith(".npy")]
    local = publish_manifest(folder, count=2)
    assert product.manifest == local.manifest
    three = machine("three")
    three.bring_folder("embeddings3")
    opened = open_shards(three.folder / "embeddings3")
    np.testing.assert_array_equal(
        opened.rows_at(np.arange(6)), open_shards(folder).rows_at(np.arange(6))
    )
    two.bring_folder("embeddings3")
    assert open_shards(two.folder / "embeddings3").fingerprint == opened.fingerprint


def test_two_processes_that_want_more_and_less_of_a_shard_both_get_it(machine, shards):
    push_shards(machine(), shards)
    less, more = machine("two"), machine("two")
    asked = more.store.read

    def read_then_bring_tables(names):
        found = asked(names)
        more.store.read = asked
        bring_tables(less)
        return found

    more.store.read = read_then_bring_tables
    more.bring_folder("embeddings3")
    assert open_shards(more.folder / "embeddings3").rows == 6


def test_rows_of_matrices_that_are_elsewhere_are_nan(machine, shards):
    push_shards(machine(), shards)
    opened = open_shards(bring_tables(machine("two")), matrices=False)
    assert (opened.rows, opened.width, opened.proteins) == (6, 4, 6)
    assert np.isnan(opened.rows_at(np.arange(6))).all()


def test_shards_of_another_split_go_from_the_store_and_from_other_copies(machine, shards):
    one, two = machine(), machine("two")
    push_shards(one, shards)
    one.push(publish_manifest(bring_tables(one), count=2, matrices=False))
    two.bring_folder("embeddings3")
    three = machine("three")
    bring_tables(three, 3)
    push_shards(three, shards, count=3)
    three.push(publish_manifest(bring_tables(three, 3), count=3, matrices=False))
    two.bring_folder("embeddings3")
    opened = open_shards(two.folder / "embeddings3")
    assert [path.name for path in opened.paths] == [
        f"embeddings_{n:04d}-of-0003.npy" for n in range(3)
    ]


def change_shard(mirror):
    """Make the first shard anew, of the same size, with rows of ones, and send it."""
    matrix = mirror.folder / "embeddings3/embeddings_0000-of-0002.npy"
    storage.replace(saved(np.ones((3, 4), np.float32), mirror.folder / "ones.npy"), matrix)
    content = json.loads(matrix.with_suffix(".json").read_bytes())
    content["files"][matrix.name] = {
        "sha256": storage.sha256_of(matrix),
        "bytes": os.path.getsize(matrix),
    }
    storage.publish_json(matrix.with_suffix(".json"), content)
    mirror.push(shard_at(matrix.with_suffix(".json")))
    return matrix


def saved(array, path):
    np.save(path, array)
    return path


def test_a_matrix_that_was_left_out_is_not_taken_for_that_of_the_new_shard(machine, shards):
    one, two = machine(), machine("two")
    push_shards(one, shards)
    two.bring_folder("embeddings3")
    matrix = change_shard(one)
    bring_tables(two)
    two.bring_folder("embeddings3")
    assert (np.load(two.folder / "embeddings3" / matrix.name) == 1).all()


def test_a_shard_that_was_only_read_is_not_sent_with_the_common_manifest(machine, shards):
    one, two = machine(), machine("two")
    push_shards(one, shards)
    product = publish_manifest(bring_tables(two), count=2, matrices=False)
    change_shard(one)
    changed = two.store.list("embeddings3").keys()
    with pytest.raises(InputError, match=r"0000-of-0002\.json: has been replaced .* step again"):
        two.push(product)
    assert two.store.list("embeddings3").keys() == changed
    # The step is run again.
    product = publish_manifest(bring_tables(two), count=2, matrices=False)
    two.push(product)
    three = machine("three")
    three.bring_folder("embeddings3")
    assert product_at(three.folder / "embeddings3").manifest == product.manifest
    assert (open_shards(three.folder / "embeddings3").rows_at(np.arange(3)) == 1).all()


def test_the_common_manifest_is_not_sent_where_a_shard_is_gone(machine, shards):
    one, two = machine(), machine("two")
    push_shards(one, shards)
    product = publish_manifest(bring_tables(two), count=2, matrices=False)
    one.store.remove(["embeddings3/embeddings_0001-of-0002.json"])
    with pytest.raises(InputError, match=r"0001-of-0002\.json: has been replaced or removed"):
        two.push(product)


def test_what_another_process_brought_meanwhile_is_counted(machine, shards, monkeypatch):
    push_shards(machine(), shards)
    less, more = machine("two"), machine("two")
    add = less._copies.add

    def add_then_bring_matrices(output, *arguments, **options):
        fetched = add(output, *arguments, **options)
        more.bring([output.name])
        return fetched

    monkeypatch.setattr(less._copies, "add", add_then_bring_matrices)
    bring_tables(less)
    for path in (less.folder / "embeddings3").glob("*.json"):
        record = less._room.record_of(f"embeddings3/{path.name}")
        files = [path.with_suffix(".npy"), path.with_suffix(".parquet")]
        assert record.bytes == sum(file.stat().st_size for file in files)


def test_a_changed_shard_reaches_other_copies_alone(machine, shards):
    one, two = machine(), machine("two")
    push_shards(one, shards)
    two.bring_folder("embeddings3")
    two.store.fetched.clear()
    matrix = change_shard(one)
    two.bring_folder("embeddings3")
    assert len(two.store.fetched) == 1
    assert (np.load(two.folder / "embeddings3" / matrix.name) == 1).all()
