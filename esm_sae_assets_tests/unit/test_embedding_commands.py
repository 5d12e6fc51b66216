import gzip
import json

import numpy as np
import pytest

from esm_sae import embed_clusters, embed_uniref, pt_to_npy
from esm_sae.embedding import open_shards
from esm_sae.formats.embedded_clusters import read_embedded_json
from esm_sae.formats.manifest import manifest_beside

RECORDS = [(f"P{n} Protein OS=Taxon {n % 2} OX={n % 2 + 1}", "MKVLA" * (n + 1)) for n in range(5)]
DEMO = ["--model", "esmc_demo", "--device", "cpu", "--quiet"]


def embed(fasta, output, *options):
    return embed_uniref.main(["--fasta", str(fasta), "--output", str(output), *DEMO, *options])


def test_embed_uniref_writes_shards(write_fasta, tmp_path, capsys):
    fasta = write_fasta(RECORDS)
    assert embed(fasta, tmp_path / "out", "--sequences_per_shard", "2") == 0
    shards = open_shards(tmp_path / "out")
    assert (shards.rows, shards.width, len(shards.paths)) == (5, 256, 3)
    written = capsys.readouterr()
    assert (
        "5 x 256 of 5 proteins in 3 shards; esmc_demo (a small demonstration model" in written.out
    )
    assert written.err == ""
    assert embed(fasta, tmp_path / "out", "--sequences_per_shard", "2") == 0
    assert "unchanged" in capsys.readouterr().out


def test_embed_uniref_hands_every_option_on(write_fasta, tmp_path):
    options = (
        "--pooling residue --residues_per_protein 3 --max_len 12 --long skip --layer 1 "
        "--dtype float16 --batch_tokens 99 --precision bfloat16 --seed 4"
    )
    assert embed(write_fasta(RECORDS), tmp_path / "out", *options.split()) == 0
    shards = open_shards(tmp_path / "out")
    assert shards.arrays[0].dtype == np.float16
    assert shards.rows == 6
    assert (shards.provenance.layer, shards.provenance.precision) == (1, "bfloat16")
    manifest = json.loads((tmp_path / "out" / "embeddings_0000-of-0001.json").read_text())
    assert manifest["determinants"]["options"] == {
        "pooling": "residue",
        "dtype": "float16",
        "batch_tokens": 99,
        "device": "cpu",
        "max_length": 12,
        "long_sequences": "skip",
        "residues_per_protein": 3,
        "seed": 4,
    }


def test_embed_clusters_writes_json(tmp_path, capsys):
    clusters = tmp_path / "sampled_sequences.json"
    clusters.write_text(json.dumps({"Taxon": [["MKVLA", "P1"], ["MKW", "P2"]]}))
    output = tmp_path / "embedded_clusters.json"
    arguments = ["--clusters", str(clusters), "--output", str(output), *DEMO]
    assert embed_clusters.main([*arguments, "--pooling", "residue"]) == 0
    assert read_embedded_json(output).embeddings.shape == (2, 256)
    assert len(np.load(output.with_suffix(".residues.npy"))) == 8
    assert (
        "2 proteins of 1 taxa, 256 wide; esmc_demo (a small demonstration model"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty, it holds no FASTA record"),
        (b"MKV\n", "does not start with '>'"),
        (b">P1 name\n>P2\nMK\n", "record 'P1 name' at byte 0 has no sequence"),
        (b">P1\nMK1V\n", "record 'P1' at byte 0 has '1' at residue 3"),
        (gzip.compress(b">P1\n" + b"MKVLA" * 999)[:-9], "truncated"),
    ],
)
def test_a_bad_fasta_is_one_error_line_and_leaves_nothing(tmp_path, capsys, content, message):
    fasta = tmp_path / "bad.fasta"
    fasta.write_bytes(content)
    assert embed(fasta, tmp_path / "out") == 2
    assert_one_error(capsys, f"error: {fasta}: ", message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "esmc_3b"], "error: encoder 'esmc_3b'"),
        (["--layer", "4"], "error: layer 4: esmc_demo has layers 0 to 3"),
        (["--residues_per_protein", "3"], "error: residues_per_protein needs residue rows"),
        (["--weights", "none.pth"], "error: none.pth: no such file"),
        (["--sequences_per_shard", "0"], "error: sequences_per_shard 0"),
    ],
)
def test_bad_options_are_one_error_line_and_leave_nothing(
    write_fasta, tmp_path, capsys, options, message
):
    assert embed(write_fasta(RECORDS), tmp_path / "out", *options) == 2
    assert_one_error(capsys, message)
    assert not (tmp_path / "out").exists()


def test_a_directory_or_nothing_in_place_of_the_fasta(tmp_path, capsys):
    assert embed(tmp_path, tmp_path / "out") == 2
    assert_one_error(capsys, "error: ", str(tmp_path), "directory")
    assert embed(tmp_path / "none.fasta", tmp_path / "out") == 2
    assert_one_error(capsys, "none.fasta: no such file")
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_output_folder(write_fasta, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert embed(write_fasta(RECORDS), tmp_path / "out") == 2
    assert_one_error(capsys, "out: is a file, expected a directory")
    assert (tmp_path / "out").read_text() == "mine"


def test_bad_clusters_are_one_error_line(tmp_path, capsys):
    clusters = tmp_path / "clusters.json"
    clusters.write_text('{"A": [["MK", ')
    arguments = ["--clusters", str(clusters), "--output", str(tmp_path / "o.json"), *DEMO]
    assert embed_clusters.main(arguments) == 2
    assert_one_error(capsys, "clusters.json: not valid JSON")
    assert not (tmp_path / "o.json").exists()


def test_a_manifest_that_lost_its_counts_is_one_error_line(tmp_path, capsys):
    clusters, output = tmp_path / "clusters.json", tmp_path / "o.json"
    clusters.write_text('{"A": [["MK", "P1"]]}')
    arguments = ["--clusters", str(clusters), "--output", str(output), *DEMO]
    assert embed_clusters.main(arguments) == 0
    capsys.readouterr()
    manifest = json.loads(manifest_beside(output).read_text()) | {"summary": {}}
    manifest_beside(output).write_text(json.dumps(manifest))
    assert embed_clusters.main(arguments) == 2
    assert_one_error(capsys, "o.json.manifest.json: lacks the count 'proteins'; remove it")
    manifest_beside(output).unlink()
    assert embed_clusters.main(arguments) == 0


@pytest.mark.parametrize("command", [embed_uniref, embed_clusters, pt_to_npy])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    name = command.__name__.removeprefix("esm_sae.")
    assert f"example:\n  python -m esm_sae.{name} " in capsys.readouterr().out


def assert_one_error(capsys, *parts):
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("error: ")
    assert written.err.count("\n") == 1
    for part in parts:
        assert part in written.err
