from collections import Counter

import polars as pl
import pytest

from esm_sae.errors import InputError
from esm_sae.split import read_similarity_clusters, split_of, splits_of

NAMES = [f"cluster_{number}" for number in range(20_000)]


@pytest.mark.parametrize("seed", [0, 1])
def test_shares_are_near_80_10_10(seed):
    counts = Counter(split_of(name, seed=seed) for name in NAMES)
    # Standard deviations are 57 and 42.
    assert abs(counts["train"] - 16_000) < 300
    assert abs(counts["validation"] - 2_000) < 220
    assert abs(counts["test"] - 2_000) < 220
    assert counts.total() == len(NAMES)


def test_the_split_is_fixed():
    # Published checkpoints rely on it: another hash would leak held-out proteins into training.
    assert [split_of(f"UniRef50_P{number}") for number in range(12)] == [
        "train",
        "train",
        "train",
        "train",
        "test",
        "train",
        "train",
        "validation",
        "train",
        "validation",
        "test",
        "test",
    ]


def test_another_seed_is_another_split():
    same = sum(split_of(name, seed=0) == split_of(name, seed=1) for name in NAMES)
    # Two independent splits agree on 0.8^2 + 2 x 0.1^2 = 66%.
    assert abs(same / len(NAMES) - 0.66) < 0.02


def test_relatives_stay_together():
    ids = [f"protein_{number}" for number in range(300)]
    clusters = {name: f"cluster_{number // 10}" for number, name in enumerate(ids)}
    splits = splits_of(ids, clusters)
    for start in range(0, 300, 10):
        assert len(set(splits[start : start + 10])) == 1
    assert set(splits) == {"train", "validation", "test"}
    assert splits.tolist() == [split_of(clusters[name]) for name in ids]


def test_a_protein_without_a_cluster_is_its_own():
    assert splits_of(["a", "b", "a"]).tolist() == [split_of("a"), split_of("b"), split_of("a")]
    assert splits_of(["a", "b"], {"a": "b"}).tolist() == [split_of("b")] * 2


def test_clusters_are_read_from_parquet(tmp_path):
    path = tmp_path / "clusters.parquet"
    pl.DataFrame(
        {"cluster_id": ["x", "x"], "sequence_id": ["a", "b"], "more": [1, 2]}
    ).write_parquet(path)
    assert read_similarity_clusters(path) == {"a": "x", "b": "x"}


def test_other_tables_are_refused(tmp_path):
    path = tmp_path / "clusters.parquet"
    pl.DataFrame({"sequence_id": ["a"]}).write_parquet(path)
    with pytest.raises(InputError, match=r"clusters\.parquet: not a parquet table"):
        read_similarity_clusters(path)
    path.write_text("sequence_id\tcluster_id\n")
    with pytest.raises(InputError, match=r"clusters\.parquet: not a parquet table"):
        read_similarity_clusters(path)
