from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.analysis import activations as module
from esm_sae.analysis import compute_activations, scan_activations
from esm_sae.analysis import pairs as pairs_module
from esm_sae.analysis.entries import ProteinCounter, max_per_protein
from esm_sae.analysis.queries import activation_parts
from esm_sae.errors import InputError
from esm_sae.formats.shards import ROW_SCHEMA, open_shards

MakeShards = Callable[..., tuple[Path, np.ndarray]]


@pytest.mark.parametrize("pooling", ["mean", "residue"])
@pytest.mark.parametrize(("part_rows", "pairs_at_once"), [(1, 1), (5, 9), (65_536, 1 << 22)])
def test_tables_equal_a_dense_reference(
    make_shards: MakeShards,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pooling: str,
    part_rows: int,
    pairs_at_once: int,
    fake_sae: Any,
) -> None:
    # Small batches cut proteins in two; a part of one row is smaller than each of them.
    monkeypatch.setattr(module, "_PART_ROWS", part_rows)
    monkeypatch.setattr(pairs_module, "_PAIRS_AT_ONCE", pairs_at_once)
    folder, x = make_shards(14, pooling=pooling)
    shards = open_shards(folder)
    sae = fake_sae(pooling=pooling, **fake_sae.ENCODER)
    product = compute_activations(sae, shards, tmp_path / "out", batch_rows=3)
    dense = sae.dense(x)
    index = shards.index.collect()

    entries = scan_activations(product.path).collect()
    rebuilt = np.zeros_like(dense)
    rebuilt[entries["row"].to_numpy(), entries["latent"].to_numpy()] = entries["activation"]
    np.testing.assert_allclose(rebuilt, dense, rtol=1e-6)
    assert entries["row"].is_sorted()
    assert (entries["activation"] > 0).all()
    assert entries["sequence_id"].to_list() == index["sequence_id"].gather(entries["row"]).to_list()
    assert entries["position"].to_list() == index["position"].gather(entries["row"]).to_list()

    ids = index["sequence_id"].to_list()
    expected = {}
    for protein in dict.fromkeys(ids):
        rows = [row for row, sequence_id in enumerate(ids) if sequence_id == protein]
        for latent in range(dense.shape[1]):
            strongest = max(rows, key=lambda row: dense[row, latent])
            if dense[strongest, latent] > 0:
                expected[latent, protein] = (
                    pytest.approx(dense[strongest, latent], rel=1e-6),
                    index["position"][strongest],
                )
    pairs = pl.read_parquet(product.path / "proteins.parquet")
    found = {
        (row["latent"], row["sequence_id"]): (row["activation"], row["position"])
        for row in pairs.iter_rows(named=True)
    }
    assert found == expected
    assert len(pairs) == len(expected)
    order = [(row["latent"], -row["activation"]) for row in pairs.iter_rows(named=True)]
    assert order == sorted(order)

    latents = pl.read_parquet(product.path / "latents.parquet")
    assert latents["latent"].to_list() == list(range(24))
    fired = dense > 0
    np.testing.assert_allclose(latents["density"], fired.mean(axis=0))
    np.testing.assert_allclose(latents["max_activation"], dense.max(axis=0), rtol=1e-6)
    mean = dense.sum(axis=0) / np.maximum(fired.sum(axis=0), 1)
    np.testing.assert_allclose(latents["mean_activation"], mean, rtol=1e-5)
    proteins_of = [sum(latent == key[0] for key in expected) for latent in range(24)]
    assert latents["firing_proteins"].to_list() == proteins_of
    np.testing.assert_allclose(latents["protein_density"], np.array(proteins_of) / 14)
    assert latents["histogram"].list.sum().to_list() == fired.sum(axis=0).tolist()

    sequences = pl.read_parquet(product.path / "sequences.parquet")
    assert sequences["protein"].to_list() == list(range(14))
    assert sequences["rows"].to_list() == [ids.count(name) for name in sequences["sequence_id"]]
    assert product.manifest.summary["silent_latents"] >= 2


def test_files_hold_whole_proteins(
    make_shards: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_sae: Any
) -> None:
    monkeypatch.setattr(module, "_PART_ROWS", 5)
    shards = open_shards(make_shards(14, pooling="residue")[0])
    sae = fake_sae(pooling="residue", **fake_sae.ENCODER)
    product = compute_activations(sae, shards, tmp_path / "out", batch_rows=3)
    files = [pl.read_parquet(path) for path in activation_parts(product.path)]
    assert len(files) > 2
    of_files = [set(file["protein"]) for file in files]
    assert sum(map(len, of_files)) == len(set().union(*of_files)) == 14
    whole = compute_activations(sae, shards, tmp_path / "whole", batch_rows=64)
    for read in (scan_activations, lambda folder: pl.scan_parquet(folder / "proteins.parquet")):
        assert read(product.path).collect().equals(read(whole.path).collect())


def test_row_groups_are_small_and_know_their_ranges(
    make_shards: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_sae: Any
) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 8)
    monkeypatch.setattr(pairs_module, "ROW_GROUP", 8)
    shards = open_shards(make_shards(14)[0])
    product = compute_activations(fake_sae(**fake_sae.ENCODER), shards, tmp_path / "out")
    for path in (product.path / "proteins.parquet", *activation_parts(product.path)):
        groups = pyarrow.parquet.ParquetFile(path).metadata
        assert groups.num_row_groups == -(-groups.num_rows // 8)
        assert groups.row_group(0).column(0).statistics.has_min_max


def test_what_a_killed_build_left_is_not_in_the_way(
    make_shards: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_sae: Any
) -> None:
    shards = open_shards(make_shards()[0])
    sae = fake_sae(**fake_sae.ENCODER)
    monkeypatch.setattr(module, "_PART_ROWS", 4)
    expected = compute_activations(sae, shards, tmp_path / "whole", batch_rows=4).manifest.files

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(pairs_module.PairSorter, "write", killed)
        context.setattr(pairs_module.PairSorter, "__exit__", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            compute_activations(sae, shards, tmp_path / "out", batch_rows=4)
    product = compute_activations(sae, shards, tmp_path / "out", batch_rows=4)
    assert product.manifest.files == expected
    assert [path for path in tmp_path.rglob("*") if "work" in path.name] == []


def test_a_latent_count_beyond_16_bits_is_sorted(tmp_path: Path) -> None:
    latents = np.array([70_000, 5, 70_000, 65_541], dtype=np.uint32)
    table = pl.DataFrame(
        {
            "latent": latents,
            "protein": np.arange(4, dtype=np.uint32),
            "activation": np.array([1, 2, 3, 1], dtype=np.float32),
            "position": np.array([1, 2, 3, 4], dtype=np.int32),
        }
    )
    with pairs_module.PairSorter(tmp_path / "work", 80_000) as pairs:
        pairs.add(table)
        pairs.write(tmp_path / "t.parquet", pl.Series("sequence_id", list("abcd")))
    assert pl.read_parquet(tmp_path / "t.parquet")["sequence_id"].to_list() == list("bdca")


def test_histogram_has_equal_bins_up_to_the_maximum(
    make_shards: MakeShards, tmp_path: Path, fake_sae: Any
) -> None:
    folder, x = make_shards(40)
    sae = fake_sae(**fake_sae.ENCODER)
    product = compute_activations(sae, open_shards(folder), tmp_path / "out")
    latents = pl.read_parquet(product.path / "latents.parquet")
    latent = int(np.argmax(latents["firing_rows"].to_numpy()))
    values = sae.dense(x)[:, latent]
    counts, _ = np.histogram(values[values > 0], bins=20, range=(0, values.max()))
    assert latents["histogram"][latent].to_list() == counts.tolist()


def test_repeated_run_is_unchanged_and_gives_the_same_bytes(
    make_shards: MakeShards, tmp_path: Path, fake_sae: Any
) -> None:
    shards = open_shards(make_shards()[0])
    sae = fake_sae(**fake_sae.ENCODER)
    one = compute_activations(sae, shards, tmp_path / "one")
    assert compute_activations(sae, shards, tmp_path / "one").unchanged
    other = compute_activations(sae, shards, tmp_path / "other")
    assert one.manifest.files == other.manifest.files


@pytest.mark.parametrize(
    ("field", "value"),
    [("encoder", "esmc_600m"), ("weights_sha256", "f" * 64), ("layer", 2), ("pooling", "residue")],
)
def test_rows_of_another_kind_are_refused_with_both_named(
    make_shards: MakeShards, tmp_path: Path, field: str, value: Any, fake_sae: Any
) -> None:
    config = fake_sae.ENCODER | {"pooling": "mean", field: value}
    shards = open_shards(make_shards()[0])
    with pytest.raises(InputError, match=f"{getattr(shards.provenance, field)} and {value}"):
        compute_activations(fake_sae(**config), shards, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_of_another_width_are_refused_with_both_named(
    make_shards: MakeShards, tmp_path: Path, fake_sae: Any
) -> None:
    shards = open_shards(make_shards()[0])
    with pytest.raises(InputError, match=r"8 wide.*16 wide"):
        compute_activations(fake_sae(width=16), shards, tmp_path / "out")


def test_bare_matrices_of_unknown_provenance_are_taken_as_proteins(
    tmp_path: Path, fake_sae: Any
) -> None:
    (tmp_path / "bare").mkdir()
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    np.save(tmp_path / "bare" / "x.npy", x)
    with pytest.warns(UserWarning, match="unknown"):
        shards = open_shards(tmp_path / "bare")
    product = compute_activations(
        fake_sae(**fake_sae.ENCODER, pooling="mean"), shards, tmp_path / "out"
    )
    assert product.manifest.summary["proteins"] == 6


def test_an_embedding_that_is_not_finite_is_named(
    make_shards: MakeShards, tmp_path: Path, fake_sae: Any
) -> None:
    folder, _ = make_shards(4, count=1)
    matrix = np.load(folder / "embeddings_0000-of-0001.npy", mmap_mode="r+")
    matrix[2] = np.nan
    matrix.flush()
    with pytest.raises(InputError, match="row 2"):
        compute_activations(fake_sae(**fake_sae.ENCODER), open_shards(folder), tmp_path / "out")


def test_fasta_gives_the_sequences_of_residue_rows(
    make_shards: MakeShards, write_fasta: Callable[..., Path], tmp_path: Path, fake_sae: Any
) -> None:
    shards = open_shards(make_shards(5, pooling="residue")[0])
    index = shards.index.collect()
    lengths = dict(index.select("sequence_id", "length").iter_rows())
    records = [(f"{name} protein", "M" * length) for name, length in lengths.items()]
    sae = fake_sae(**fake_sae.ENCODER, pooling="residue")
    fasta = write_fasta([("Q1 not embedded", "AAA"), *records])
    product = compute_activations(sae, shards, tmp_path / "out", fasta=fasta)
    sequences = pl.read_parquet(product.path / "sequences.parquet")
    assert sequences["sequence"].to_list() == [sequence for _, sequence in records]
    wrong = write_fasta([*records[:-1], ("P4 protein", "M" * 99)], "wrong.fasta")
    with pytest.raises(InputError, match="P4"):
        compute_activations(sae, shards, tmp_path / "out", fasta=wrong)
    twice = write_fasta([*records, (records[0][0], "A" * len(records[0][1]))], "twice.fasta")
    with pytest.raises(InputError, match="two proteins have the id P0"):
        compute_activations(sae, shards, tmp_path / "out", fasta=twice)


def test_a_protein_ends_where_the_id_changes_or_the_position_does_not_ascend() -> None:
    rows = [("A", 2), ("A", 5), ("A", 1), ("B", 1), ("B", 2), ("B", 2)]
    columns = {name: [None] * len(rows) for name in ROW_SCHEMA}
    columns |= {"sequence_id": [row[0] for row in rows], "position": [row[1] for row in rows]}
    index = pl.DataFrame(columns, schema=ROW_SCHEMA)
    for cut in range(1, len(rows)):
        counter = ProteinCounter(residues=True)
        parts = [counter.number(index[:cut])[0], counter.number(index[cut:])[0]]
        assert np.concatenate(parts).tolist() == [0, 0, 1, 2, 2, 3]


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 3), st.sampled_from([0.5, 1.0, 1.5, 3e38])),
        max_size=40,
    )
)
def test_max_per_protein_keeps_the_first_of_the_strongest(
    entries: list[tuple[int, int, float]],
) -> None:
    table = pl.DataFrame(
        {
            "protein": pl.Series([entry[0] for entry in entries], dtype=pl.UInt32),
            "latent": pl.Series([entry[1] for entry in entries], dtype=pl.UInt32),
            "activation": pl.Series([entry[2] for entry in entries], dtype=pl.Float32),
            "position": pl.Series(range(len(entries)), dtype=pl.Int32),
        }
    )
    strongest: dict[tuple[int, int], tuple[float, int]] = {}
    for position, (protein, latent, activation) in enumerate(entries):
        if activation > strongest.get((protein, latent), (0.0, 0))[0]:
            strongest[protein, latent] = (activation, position)
    found = max_per_protein(table)
    assert [(row[0], row[1], row[3]) for row in found.iter_rows()] == [
        (*pair, strongest[pair][1]) for pair in sorted(strongest)
    ]
