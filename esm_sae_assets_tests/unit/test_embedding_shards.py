import json
import os
import runpy
import signal
from pathlib import Path

import numpy as np
import pytest

from esm_sae.embedding import (
    EmbeddingOptions,
    embed_fasta,
    embed_shard,
    load_encoder,
    open_shards,
)
from esm_sae.embedding.residues import chosen_positions
from esm_sae.errors import InputError
from esm_sae.formats.fasta import read_fasta
from esm_sae.formats.shards import ROW_SCHEMA

TOY_FILE = Path(__file__).with_name("toy_encoder.py")
ToyBackbone = runpy.run_path(str(TOY_FILE))["ToyBackbone"]
RESIDUES = EmbeddingOptions(rows="residue")


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
    shards = embed(EmbeddingOptions(rows="residue", residues_per_protein=3))
    means = shards.means()
    np.testing.assert_allclose(all_rows(means), toy.embed(sequences_of(fasta)), atol=1e-6)
    assert means.index.collect()["sequence_id"].to_list() == [
        record.header.split()[0] for record in read_fasta(fasta)
    ]


def test_drawn_residues_are_those_rows_of_all_residues(embed):
    options = EmbeddingOptions(rows="residue", residues_per_protein=7, seed=5)
    drawn, every = embed(options, "drawn"), embed(RESIDUES, "every")
    keys = ["sequence_id", "position"]
    numbered = every.index.collect().with_row_index("row")
    rows = drawn.index.collect().join(numbered, on=keys, how="left", maintain_order="left")["row"]
    np.testing.assert_allclose(all_rows(drawn), all_rows(every)[rows.to_numpy()], atol=1e-6)
    for (name, length), group in drawn.index.collect().group_by("sequence_id", "length"):
        expected = chosen_positions(length, 7, sequence_id=name, seed=5) + 1
        assert group["position"].to_list() == expected.tolist()


def test_drawn_residues_do_not_depend_on_the_shards(embed):
    options = EmbeddingOptions(rows="residue", residues_per_protein=7)
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
        "esmc_demo (untrained: seeded random weights), layer 2, mean rows"
    )
    expected = demo.embed(sequences_of(fasta), layer=2)
    np.testing.assert_allclose(all_rows(shards), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rows", ["mean", "residue"])
def test_the_same_options_give_the_same_bytes(embed, rows):
    one, other = embed(EmbeddingOptions(rows=rows), "a"), embed(EmbeddingOptions(rows=rows), "b")
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


def test_the_seed_matters_only_where_residues_are_drawn():
    assert EmbeddingOptions(seed=1).determinants() == EmbeddingOptions(seed=2).determinants()
    drawn = [
        EmbeddingOptions(rows="residue", residues_per_protein=3, seed=seed).determinants()
        for seed in (1, 2)
    ]
    assert drawn[0] != drawn[1]


def test_changing_to_mean_rows_leaves_no_means_of_residues_behind(embed):
    embed(RESIDUES)
    names = {path.name for path in embed(EmbeddingOptions()).directory.iterdir()}
    assert not any(name.startswith("means") for name in names)


def test_long_sequences_are_cut_off_and_counted(embed, toy, fasta):
    shards = embed(EmbeddingOptions(rows="residue", max_length=10))
    sequences = sequences_of(fasta)
    expected = toy.embed([sequence[:10] for sequence in sequences], pooling="residue")
    np.testing.assert_allclose(all_rows(shards), expected, atol=1e-6)
    summary = json.loads((shards.directory / "manifest.json").read_text())["summary"]
    assert summary["truncated"] == sum(len(sequence) > 10 for sequence in sequences) > 0
    assert summary["residues"] == len(expected)
    assert shards.index.collect()["length"].max() == max(map(len, sequences))


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


@pytest.mark.parametrize("rows", ["mean", "residue"])
@pytest.mark.parametrize(
    ("letter_value", "dtype"), [(np.nan, "float32"), (np.inf, "float32"), (1e6, "float16")]
)
def test_values_that_are_not_finite_fail_and_name_the_sequences(
    toy, write_fasta, tmp_path, rows, letter_value, dtype
):
    toy.backbone.table[toy.backbone.vocabulary.encode("W").ids[1]] = letter_value
    fasta = write_fasta([("P1", "MKV"), ("P2", "MWV"), ("P3", "LLLL"), ("P4", "W")])
    with pytest.raises(InputError, match=f"embeddings of P2, P4 are not finite in {dtype}"):
        embed_shard(
            fasta,
            tmp_path / "s",
            shard=0,
            count=1,
            encoder=toy,
            options=EmbeddingOptions(rows=rows, dtype=dtype),
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
        ({"rows": "last"}, "rows 'last': expected one of mean, residue"),
        ({"dtype": "float64"}, "dtype 'float64': expected one of float32, float16"),
        ({"residues_per_protein": 3}, "residues_per_protein needs residue rows"),
        ({"rows": "residue", "residues_per_protein": 0}, "residues_per_protein 0"),
        ({"max_length": 0}, "max_length 0: expected 1 or more"),
        ({"batch_tokens": 0}, "batch_tokens 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        EmbeddingOptions(**options)


EMBED_UNTIL_KILLED = """
import runpy, sys, time
from esm_sae.embedding import EmbeddingOptions, embed_fasta, load_encoder
runpy.run_path(sys.argv[1])
encoder = load_encoder("toy", device="cpu")
states, calls = encoder.backbone.states, []
def stop_in_the_third_shard(tokens, **options):
    calls.append(1)
    if len(calls) == 11:
        print("half way", flush=True)
        time.sleep(600)
    return states(tokens, **options)
encoder.backbone.states = stop_in_the_third_shard
options = EmbeddingOptions(rows="residue", batch_tokens=50)
embed_fasta(sys.argv[2], sys.argv[3], encoder=encoder, options=options, sequences_per_shard=6)
"""


def test_a_killed_run_leaves_no_half_shard_and_a_rerun_gives_the_same_bytes(
    start_python, embed, fasta, tmp_path
):
    process = start_python(EMBED_UNTIL_KILLED, TOY_FILE, fasta, tmp_path / "killed")
    assert process.stdout.readline() == "half way\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = sorted(path.name for path in (tmp_path / "killed").iterdir())
    final = {name for name in left if not name.startswith(".")}
    complete = {name.removesuffix(".json") for name in final if name.endswith(".json")}
    assert complete
    assert {Path(name.replace("means_", "embeddings_")).stem for name in final} == complete
    assert any(name.endswith(".partial") for name in left)
    with pytest.raises(InputError, match="shards missing"):
        open_shards(tmp_path / "killed")

    options = EmbeddingOptions(rows="residue", batch_tokens=50)
    undisturbed, rerun = embed(options, "undisturbed"), embed(options, "killed")
    assert bytes_of(rerun.directory) == bytes_of(undisturbed.directory)
