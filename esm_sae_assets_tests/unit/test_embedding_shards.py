import json
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from esm_sae.embedding import (
    EmbeddingOptions,
    embed_fasta,
    embed_shard,
    load_encoder,
    open_shards,
)
from esm_sae.embedding.options import POOLINGS
from esm_sae.embedding.residues import chosen_positions
from esm_sae.embedding.windows import window_pieces
from esm_sae.errors import InputError
from esm_sae.formats.fasta import read_fasta
from esm_sae.formats.shards import ROW_SCHEMA

TOY_FILE = Path(__file__).with_name("toy_encoder.py")
ToyBackbone = runpy.run_path(str(TOY_FILE))["ToyBackbone"]
RESIDUES = EmbeddingOptions(pooling="residue")


@pytest.fixture
def toy():
    return load_encoder("toy", device="cpu")


@pytest.fixture
def fasta(write_fasta, random_proteins):
    return write_fasta(random_proteins(23))


@pytest.fixture
def embed(toy, fasta, tmp_path):
    """Return a function that embeds the proteins into four shards and opens them."""

    def run(options, name="shards", *, source=fasta, encoder=toy, sequences_per_shard=6):
        embed_fasta(
            source,
            tmp_path / name,
            encoder=encoder,
            options=options,
            sequences_per_shard=sequences_per_shard,
        )
        return open_shards(tmp_path / name)

    return run


def sequences_of(fasta):
    return [record.sequence for record in read_fasta(fasta)]


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def all_rows(shards):
    return np.concatenate(shards.arrays)


def test_mean_rows_are_the_proteins_in_file_order(embed, toy, fasta):
    shards = embed(EmbeddingOptions())
    assert [len(array) for array in shards.arrays] == [5, 6, 6, 6]
    np.testing.assert_allclose(all_rows(shards), toy.embed(sequences_of(fasta)), atol=1e-6)
    index = shards.index.collect()
    records = list(read_fasta(fasta))
    assert dict(index.schema) == ROW_SCHEMA
    assert index["header"].to_list() == [record.header for record in records]
    assert index["length"].to_list() == [len(record.sequence) for record in records]
    assert index["taxon"][0].startswith("Taxon ")
    assert index["taxid"][0] >= 1000
    assert index["position"].is_null().all()


def test_a_matrix_is_a_plain_npy_file(embed):
    for path in embed(EmbeddingOptions()).paths:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.shape[1] == 4


def test_residue_rows_are_all_residues_with_their_positions(embed, toy, fasta):
    shards = embed(RESIDUES)
    sequences = sequences_of(fasta)
    np.testing.assert_allclose(all_rows(shards), toy.embed(sequences, pooling="residue"), atol=1e-6)
    index = shards.index.collect()
    expected = [position for s in sequences for position in range(1, len(s) + 1)]
    assert index["position"].to_list() == expected
    assert index["sequence_id"].n_unique() == len(sequences)


def test_means_beside_residue_rows_are_over_all_residues(embed, toy, fasta):
    shards = embed(EmbeddingOptions(pooling="residue", residues_per_protein=3))
    means = shards.means()
    np.testing.assert_allclose(all_rows(means), toy.embed(sequences_of(fasta)), atol=1e-6)
    assert means.index.collect()["sequence_id"].to_list() == [
        record.header.split()[0] for record in read_fasta(fasta)
    ]


def test_drawn_residues_are_those_rows_of_all_residues(embed):
    options = EmbeddingOptions(pooling="residue", residues_per_protein=7, seed=5)
    drawn, every = embed(options, "drawn"), embed(RESIDUES, "every")
    keys = ["sequence_id", "position"]
    numbered = every.index.collect().with_row_index("row")
    rows = drawn.index.collect().join(numbered, on=keys, how="left", maintain_order="left")["row"]
    np.testing.assert_allclose(all_rows(drawn), all_rows(every)[rows.to_numpy()], atol=1e-6)
    for (name, length), group in drawn.index.collect().group_by("sequence_id", "length"):
        expected = chosen_positions(length, 7, sequence_id=name, seed=5) + 1
        assert group["position"].to_list() == expected.tolist()


def test_drawn_residues_do_not_depend_on_the_shards(embed):
    options = EmbeddingOptions(pooling="residue", residues_per_protein=7)
    many = embed(options, "many", sequences_per_shard=2).index.collect()
    assert many.equals(embed(options, "one", sequences_per_shard=100).index.collect())


def test_a_shard_reads_only_its_own_sequences(toy, fasta, tmp_path, monkeypatch):
    read = []

    def counted(source, offsets):
        read.extend(offsets)
        return read_at(source, offsets)

    from esm_sae.embedding import shards

    read_at = shards.read_at
    monkeypatch.setattr(shards, "read_at", counted)
    result = embed_shard(fasta, tmp_path, shard=1, count=4, encoder=toy, options=EmbeddingOptions())
    assert read == [record.offset for record in read_fasta(fasta)][5:11]
    assert result.residues == result.product.manifest.summary["residues"] > 0
    assert result.product.manifest.summary["proteins"] == 6


def test_a_compressed_file_gives_the_same_rows(embed, write_fasta, random_proteins):
    compressed = write_fasta(random_proteins(23), "same.fasta.gz")
    plain, other = embed(EmbeddingOptions()), embed(EmbeddingOptions(), "gz", source=compressed)
    np.testing.assert_array_equal(all_rows(plain), all_rows(other))


def test_a_real_encoder_fills_shards(embed, fasta):
    demo = load_encoder("esmc_demo", device="cpu")
    shards = embed(EmbeddingOptions(layer=2), encoder=demo)
    assert shards.provenance.describe() == (
        "esmc_demo (a small demonstration model), layer 2, mean rows"
    )
    expected = demo.embed(sequences_of(fasta), layer=2)
    np.testing.assert_allclose(all_rows(shards), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_same_options_give_the_same_bytes(embed, pooling):
    options = EmbeddingOptions(pooling=pooling)
    one, other = embed(options, "a"), embed(options, "b")
    assert bytes_of(one.directory) == bytes_of(other.directory)


def test_a_rerun_computes_nothing(toy, fasta, tmp_path, monkeypatch):
    options = {"encoder": toy, "options": RESIDUES, "sequences_per_shard": 6}
    assert not embed_fasta(fasta, tmp_path / "s", **options).unchanged
    before = bytes_of(tmp_path / "s")
    monkeypatch.setattr(toy.backbone, "states", None)
    assert embed_fasta(fasta, tmp_path / "s", **options).unchanged
    assert bytes_of(tmp_path / "s") == before


@pytest.mark.parametrize(
    "change", [{"layer": 0}, {"max_length": 9}, {"dtype": "float16"}, {"batch_tokens": 50}]
)
def test_another_option_makes_the_shards_anew(embed, change):
    before = embed(EmbeddingOptions()).fingerprint
    manifest = json.loads(
        (embed(EmbeddingOptions(**change)).directory / "manifest.json").read_text()
    )
    assert manifest["summary"]["shards"] == 4
    assert embed(EmbeddingOptions(**change)).fingerprint != before or "batch_tokens" in change


def test_the_seed_matters_only_where_residues_are_drawn(toy):
    assert EmbeddingOptions(seed=1).determinants(toy) == EmbeddingOptions(seed=2).determinants(toy)
    drawn = [
        EmbeddingOptions(pooling="residue", residues_per_protein=3, seed=seed).determinants(toy)
        for seed in (1, 2)
    ]
    assert drawn[0] != drawn[1]


def test_changing_to_mean_rows_leaves_no_means_of_residues_behind(embed):
    embed(RESIDUES)
    names = {path.name for path in embed(EmbeddingOptions()).directory.iterdir()}
    assert not any(name.startswith("means") for name in names)


def summary_of(shards):
    return json.loads((shards.directory / "manifest.json").read_text())["summary"]


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "bos"])
def test_a_row_is_a_protein_pooled_as_asked(embed, toy, fasta, pooling):
    shards = embed(EmbeddingOptions(pooling=pooling))
    expected = toy.embed(sequences_of(fasta), pooling=pooling)
    np.testing.assert_allclose(all_rows(shards), expected, atol=1e-6)
    assert shards.provenance.pooling == shards.means().provenance.pooling == pooling
    assert shards.means().rows == len(expected)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_long_sequences_are_cut_off_and_counted(embed, toy, fasta, pooling):
    shards = embed(EmbeddingOptions(pooling=pooling, max_length=10))
    sequences = sequences_of(fasta)
    cut = [sequence[:10] for sequence in sequences]
    np.testing.assert_allclose(all_rows(shards), toy.embed(cut, pooling=pooling), atol=1e-6)
    summary = summary_of(shards)
    assert summary["truncated"] == sum(len(sequence) > 10 for sequence in sequences) > 0
    assert summary["residues"] == sum(map(len, cut))
    assert (summary["windowed"], summary["skipped"]) == (0, 0)
    assert shards.index.collect()["length"].max() == max(map(len, sequences))


def in_windows(encoder, sequence, pooling):
    """Return the rows of a sequence in windows of 10, the long way."""
    rows, bos = [], []
    for _, start, end, own_start, own_end in zip(*window_pieces([len(sequence)], 10), strict=True):
        window = sequence[start:end]
        states = encoder.embed([window], pooling="residue")
        rows.append(states[own_start - start : own_end - start])
        bos.append(encoder.embed([window], pooling="bos")[0])
    rows = np.concatenate(rows)
    return {
        "mean": rows.mean(axis=0, keepdims=True),
        "max": rows.max(axis=0, keepdims=True),
        "last": rows[-1:],
        "bos": np.mean(bos, axis=0, keepdims=True),
        "residue": rows,
    }[pooling]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("batch_tokens", [12, 10_000])
def test_windows_count_every_residue_once(embed, toy, fasta, pooling, batch_tokens):
    options = {"max_length": 10, "long_sequences": "window", "batch_tokens": batch_tokens}
    shards = embed(EmbeddingOptions(pooling=pooling, **options))
    sequences = sequences_of(fasta)
    expected = np.concatenate([in_windows(toy, sequence, pooling) for sequence in sequences])
    np.testing.assert_allclose(all_rows(shards), expected, atol=1e-5)
    means = [in_windows(toy, sequence, "mean") for sequence in sequences]
    if pooling == "residue":
        np.testing.assert_allclose(all_rows(shards.means()), np.concatenate(means), atol=1e-5)
    summary = summary_of(shards)
    assert summary["windowed"] == sum(len(sequence) > 10 for sequence in sequences) > 0
    assert summary["residues"] == sum(map(len, sequences))
    assert (summary["truncated"], summary["skipped"]) == (0, 0)


def test_residues_drawn_of_windows_are_those_of_the_whole_protein(embed):
    options = {"pooling": "residue", "max_length": 10, "long_sequences": "window"}
    every = embed(EmbeddingOptions(**options), "every")
    drawn = embed(EmbeddingOptions(**options, residues_per_protein=3), "drawn")
    numbered = every.index.collect().with_row_index("row")
    keys = ["sequence_id", "position"]
    rows = drawn.index.collect().join(numbered, on=keys, how="left", maintain_order="left")["row"]
    np.testing.assert_array_equal(all_rows(drawn), all_rows(every)[rows.to_numpy()])
    assert drawn.index.collect()["position"].max() > 10


@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_skipped_sequences_are_left_out_and_counted(embed, toy, fasta, pooling):
    options = EmbeddingOptions(pooling=pooling, max_length=30, long_sequences="skip")
    shards = embed(options)
    records = [record for record in read_fasta(fasta) if len(record.sequence) <= 30]
    expected = toy.embed([record.sequence for record in records], pooling=pooling)
    np.testing.assert_allclose(all_rows(shards), expected, atol=1e-6)
    headers = shards.means().index.collect()["header"].to_list()
    assert headers == [record.header for record in records]
    summary = summary_of(shards)
    assert (summary["skipped"], summary["proteins"]) == (23 - len(records), len(records))
    assert summary["skipped"] > 0
    assert summary["rows"] == len(expected)


def test_a_shard_of_which_nothing_is_left_is_an_error(toy, write_fasta, tmp_path):
    fasta = write_fasta([("P1", "M" * 9), ("P2", "M" * 9), ("P3", "MK")])
    options = EmbeddingOptions(max_length=5, long_sequences="skip")
    message = "shard 0000-of-0002: all of its 1 sequences have more than 5 residues"
    with pytest.raises(InputError, match=message):
        embed_shard(fasta, tmp_path / "s", shard=0, count=2, encoder=toy, options=options)
    assert list((tmp_path / "s").iterdir()) == []


def test_the_summary_says_what_was_embedded(toy, write_fasta, tmp_path):
    fasta = write_fasta([("P1", "MKJ"), ("P2", "MKVLAWMKVL"), ("P3", "MV")])
    options = EmbeddingOptions(batch_tokens=64)
    result = embed_shard(fasta, tmp_path / "s", shard=0, count=1, encoder=toy, options=options)
    norms = np.linalg.norm(open_shards(tmp_path / "s").arrays[0].astype(float), axis=1)
    assert result.product.manifest.summary == {
        "rows": 3,
        "width": 4,
        "proteins": 3,
        "residues": 15,
        "truncated": 0,
        "windowed": 0,
        "skipped": 0,
        "unknown_letters": 1,
        "norm_min": float(f"{norms.min():.4g}"),
        "norm_median": float(f"{np.median(norms):.4g}"),
        "norm_max": float(f"{norms.max():.4g}"),
    }
    assert (result.residues, result.batches, result.resumed) == (15, 3, 0)
    assert (result.padding_share, result.batch_tokens) == (0, 64)


def test_rows_that_are_not_sound_leave_no_shard(toy, write_fasta, tmp_path):
    toy.backbone.table[toy.backbone.vocabulary.encode("W").ids[1]] = 1e6
    fasta = write_fasta([(f"P{number}", "MKVL") for number in range(5)] + [("P9", "WWW")])
    message = "embeddings_0000-of-0001.npy: rows are of a norm more than 1,000 times .*: P9;"
    with pytest.raises(InputError, match=message):
        embed_shard(
            fasta, tmp_path / "s", shard=0, count=1, encoder=toy, options=EmbeddingOptions()
        )
    assert list((tmp_path / "s").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "most", "least"),
    [
        ({"pooling": "residue"}, 40 * 16, 2),
        ({"pooling": "residue"}, 150 * 16, 2),
        ({"pooling": "residue", "dtype": "float16"}, 150 * 8, 2),
        ({"pooling": "residue", "residues_per_protein": 2}, 20 * 16, 2),
        ({"pooling": "residue"}, 10**9, 1),
        ({}, 16, 1),
    ],
)
def test_by_default_a_shard_of_residues_keeps_within_its_size(
    toy, fasta, tmp_path, monkeypatch, options, most, least
):
    from esm_sae.embedding import shards as module

    monkeypatch.setattr(module, "_MOST_SHARD_BYTES", most)
    chosen = EmbeddingOptions(**options)
    embed_fasta(fasta, tmp_path / "s", encoder=toy, options=chosen)
    shards = open_shards(tmp_path / "s")
    assert len(shards.paths) >= least
    if chosen.per_residue:
        assert max(array.nbytes for array in shards.arrays) <= most
        total = sum(array.nbytes for array in shards.arrays)
        assert len(shards.paths) <= max(1, 3 * total // most)
    else:
        assert len(shards.paths) == 1


def test_the_number_of_shards_of_many_unequal_sequences_is_found(toy, tmp_path, monkeypatch):
    from esm_sae.embedding import shards as module

    calls, largest = [], module._largest

    def counted(ends, count):
        calls.append(count)
        return largest(ends, count)

    monkeypatch.setattr(module, "_largest", counted)
    # A run of long proteins at the end: evenly many of them are far from evenly large.
    lengths = np.where(np.arange(300_000) < 290_000, 40, 9000)
    source = module._Source("x", (), "", pl.LazyFrame({"length": lengths}), len(lengths))
    count = module._shard_count(source, toy, RESIDUES, None)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    most = 1_000_000_000 // 16
    assert largest(ends, count) <= most < largest(ends, int(count / 1.02))
    monkeypatch.setattr(module, "_MOST_SHARD_BYTES", 9000 * 16)
    assert module._shard_count(source, toy, RESIDUES, None) > 150_000
    assert len(calls) < 1500


def test_unknown_letters_are_counted(toy, write_fasta, tmp_path):
    fasta = write_fasta([("P1", "MJJK"), ("P2", "mkj")])
    result = embed_shard(
        fasta, tmp_path / "s", shard=0, count=1, encoder=toy, options=EmbeddingOptions()
    )
    assert result.product.manifest.summary["unknown_letters"] == 3
    np.testing.assert_allclose(
        open_shards(tmp_path / "s").arrays[0], toy.embed(["MXXK", "MKX"]), atol=1e-6
    )


def test_float16_is_the_rounded_float32(embed):
    single, half = embed(EmbeddingOptions()), embed(EmbeddingOptions(dtype="float16"), "half")
    assert half.arrays[0].dtype == np.float16
    np.testing.assert_array_equal(all_rows(half), all_rows(single).astype(np.float16))


@pytest.mark.parametrize("pooling", ["mean", "residue"])
@pytest.mark.parametrize(
    ("letter_value", "dtype"), [(np.nan, "float32"), (np.inf, "float32"), (1e6, "float16")]
)
def test_values_that_are_not_finite_fail_and_name_the_sequences(
    toy, write_fasta, tmp_path, pooling, letter_value, dtype
):
    toy.backbone.table[toy.backbone.vocabulary.encode("W").ids[1]] = letter_value
    fasta = write_fasta([("P1", "MKV"), ("P2", "MWV"), ("P3", "LLLL"), ("P4", "WW"), ("P5", "WMV")])
    with pytest.raises(InputError, match=f"embeddings of P2, P5 are not finite in {dtype}"):
        embed_shard(
            fasta,
            tmp_path / "s",
            shard=0,
            count=1,
            encoder=toy,
            options=EmbeddingOptions(pooling=pooling, dtype=dtype),
        )
    assert list((tmp_path / "s").iterdir()) == []


def test_too_few_sequences_for_the_shards_are_an_error(toy, fasta, tmp_path):
    with pytest.raises(InputError, match="23 sequences are too few for 64 shards"):
        embed_shard(fasta, tmp_path, shard=0, count=64, encoder=toy, options=EmbeddingOptions())


@pytest.mark.parametrize("shard", [-1, 4])
def test_a_shard_that_is_not_there_is_an_error(toy, fasta, tmp_path, shard):
    with pytest.raises(InputError, match=f"shard {shard}: expected 0 to 3"):
        embed_shard(fasta, tmp_path, shard=shard, count=4, encoder=toy, options=EmbeddingOptions())


def test_shards_of_another_split_are_refused_before_any_work(embed, toy, monkeypatch):
    before = bytes_of(embed(EmbeddingOptions()).directory)
    monkeypatch.setattr(toy.backbone, "states", None)
    with pytest.raises(InputError, match="a shard of another split, 23 shards are to be written"):
        embed(EmbeddingOptions(), sequences_per_shard=1)
    assert bytes_of(embed(EmbeddingOptions()).directory) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "median"}, "pooling 'median': expected one of mean, max, last, bos, residue"),
        ({"long_sequences": "drop"}, "long_sequences 'drop': expected one of truncate, window"),
        ({"dtype": "float64"}, "dtype 'float64': expected one of float32, float16"),
        ({"residues_per_protein": 3}, "residues_per_protein needs residue rows"),
        ({"pooling": "residue", "residues_per_protein": 0}, "residues_per_protein 0"),
        ({"max_length": 0}, "max_length 0: expected 1 or more"),
        ({"batch_tokens": 0}, "batch_tokens 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        EmbeddingOptions(**options)
