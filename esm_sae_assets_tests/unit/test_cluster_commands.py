import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from esm_sae import cluster, clusters_to_json, subsample_cluster
from esm_sae.formats.manifest import produce_files

COMMANDS = {
    "cluster": cluster,
    "clusters_to_json": clusters_to_json,
    "subsample_cluster": subsample_cluster,
}


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "in.fasta"
    names = ["Alpha", "Beta"]
    path.write_text(
        "".join(
            f">P{n} Protein OS={names[n % 2]} OX={n % 2 + 1} PE=1 SV=1\nM{'A' * n}\n"
            for n in range(24)
        )
    )
    return path


@pytest.fixture
def embeddings(tmp_path):
    folder = tmp_path / "embeddings"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        rows = 10 * number + rng.normal(size=(30, 4))
        np.save(folder / f"part{number}.npy", rows.astype(np.float32))
    return folder


def call(command, *arguments):
    return COMMANDS[command].main([str(argument) for argument in arguments])


def refused(capsys, command, *arguments):
    """Return the one error line of a command that exits with 2."""
    assert call(command, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_the_commands_chain_from_fasta_to_sample(tmp_path, fasta, capsys):
    table, exported, sampled = (tmp_path / name for name in ("t.parquet", "t.json", "s.json"))
    assert call("cluster", "--by", "taxon", "--fasta", fasta, "--output", table) == 0
    assert "2 taxa of 24 of 24 records" in capsys.readouterr().out
    assert (tmp_path / "cluster_statistics.json").is_file()
    assert (
        call("clusters_to_json", "--clusters", table, "--fasta", fasta, "--output", exported) == 0
    )
    assert "24 sequences in 2 clusters" in capsys.readouterr().out
    options = ["--min_size", 5, "--per_cluster", 4, "--max_len", 20, "--seed", 3]
    assert call("subsample_cluster", "--clusters", exported, "--output", sampled, *options) == 0
    assert "8 sequences of 2 clusters" in capsys.readouterr().out
    content = json.loads(sampled.read_text())
    assert {name: len(members) for name, members in content.items()} == {"Alpha": 4, "Beta": 4}
    again = tmp_path / "again.json"
    arguments = ["--clusters", table, "--fasta", fasta, "--output", again, *options]
    assert call("subsample_cluster", *arguments) == 0
    assert again.read_bytes() == sampled.read_bytes()


def test_two_tables_of_taxa_in_one_folder_keep_their_statistics(tmp_path, fasta, capsys):
    other = tmp_path / "other.fasta"
    other.write_text(">P1 Protein OS=Gamma OX=3\nMAA\n")
    assert (
        call("cluster", "--by", "taxon", "--fasta", fasta, "--output", tmp_path / "a.parquet") == 0
    )
    before = (tmp_path / "cluster_statistics.json").read_bytes()
    capsys.readouterr()
    second = ["--by", "taxon", "--fasta", other, "--output", tmp_path / "b.parquet"]
    line = refused(capsys, "cluster", *second)
    assert "cluster_statistics.json: belongs to what a.parquet.manifest.json describes" in line
    assert (tmp_path / "cluster_statistics.json").read_bytes() == before
    assert not (tmp_path / "b.parquet").exists()
    assert call("cluster", *second, "--statistics", tmp_path / "b.json") == 0
    assert "Gamma" in json.loads((tmp_path / "b.json").read_text())["clusters"]


def test_records_that_a_rank_leaves_out_are_all_told(tmp_path, capsys):
    fasta = tmp_path / "in.fasta"
    taxids = {"known": 1000, "above": 2, "unknown": 77}
    records = [
        f">UniRef50_{name}{n} Protein n={n + 1} Tax={name} TaxID={taxid} RepID=X{n}_TEST\nMA\n"
        for name, taxid in taxids.items()
        for n in range(3)
    ]
    fasta.write_text("".join([*records, ">nameless\nMA\n"]))
    folder = tmp_path / "taxdump"
    write_taxdump(folder, [(1, 1, "no rank"), (2, 1, "domain"), (1000, 2, "species")])
    options = ["--taxonomy", folder, "--rank", "species", "--output", tmp_path / "t.parquet"]
    assert call("cluster", "--by", "taxon", "--fasta", fasta, *options) == 0
    out = capsys.readouterr().out
    assert "1 taxa of 3 of 10 records" in out
    assert (
        "1 without a taxon, 3 of a taxon that the taxonomy does not know, 3 of a taxon above" in out
    )
    assert "share left out by members of the UniRef cluster: " in out
    assert "1: " in out


def write_taxdump(folder, nodes):
    folder.mkdir()
    lines = {
        "nodes.dmp": ["\t|\t".join(map(str, node)) for node in nodes],
        "names.dmp": [f"{node[0]}\t|\tTaxon {node[0]}\t|\t\t|\tscientific name" for node in nodes],
    }
    for name, content in lines.items():
        (folder / name).write_text("".join(f"{line}\t|\n" for line in content))


@pytest.mark.filterwarnings("always:.*plain matrices:UserWarning")
@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("page.html", [], "give it a name that ends in .parquet"),
        (
            "t.parquet",
            ["--similarity_clusters", "nowhere.parquet"],
            "nowhere.parquet: no such file",
        ),
    ],
)
def test_what_would_fail_in_the_end_is_refused_before_clustering(
    tmp_path, embeddings, capsys, output, options, message
):
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = ["--np_dir", embeddings, "--output", folder / output, *options]
    assert message in refused(capsys, "cluster", *arguments)
    assert list(folder.iterdir()) == []


@pytest.mark.filterwarnings("always:.*(plain matrices|of unknown):UserWarning")
def test_a_table_of_another_output_is_not_written_over(tmp_path, embeddings, capsys):
    table = tmp_path / "x.parquet"
    table.write_bytes(b"a table of embedded clusters")
    produce_files(
        [tmp_path / "x.json"],
        manifest=tmp_path / "x.json.manifest.json",
        kind="embedded_clusters",
        determinants={},
        build=lambda paths: {"bytes": paths[0].write_bytes(b"{}")},
    )
    manifest = tmp_path / "x.json.manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["x.parquet"] = {"sha256": "0" * 64, "bytes": table.stat().st_size}
    manifest.write_text(json.dumps(content))
    line = refused(capsys, "cluster", "--np_dir", embeddings, "--output", table)
    assert "belongs to what x.json.manifest.json describes" in line
    assert table.read_bytes() == b"a table of embedded clusters"


@pytest.mark.filterwarnings("always:.*plain matrices:UserWarning")
def test_embeddings_are_clustered(tmp_path, embeddings, capsys):
    output = tmp_path / "clusters.parquet"
    arguments = ["--np_dir", embeddings, "--output", output, "--min_cluster_size", 10]
    assert call("cluster", *arguments, "--components", 3, "--seed", 1) == 0
    captured = capsys.readouterr()
    assert "3 clusters (eom) of 90 proteins" in captured.out
    assert "warning: " in captured.err
    assert pl.read_parquet(output)["cluster"].n_unique() in (3, 4)


@pytest.mark.filterwarnings("always:.*(plain matrices|all rows are noise):UserWarning")
def test_the_warning_that_all_is_noise_is_no_part_of_the_summary(tmp_path, capsys):
    folder = tmp_path / "embeddings"
    folder.mkdir()
    np.save(folder / "part.npy", np.random.default_rng(0).random((40, 16), dtype=np.float32))
    output = tmp_path / "clusters.parquet"
    assert call("cluster", "--np_dir", folder, "--output", output, "--min_cluster_size", 30) == 0
    captured = capsys.readouterr()
    assert f"warning: {output}: all rows are noise; lower " in captured.err
    assert "100% noise" in captured.out
    assert "lower" not in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "taxon"], "--by taxon needs --fasta"),
        ([], "--by embedding needs --np_dir"),
        (["--fasta", "x"], "--fasta does not go with --by embedding"),
        (["--by", "taxon", "--fasta", "x", "--np_dir", "y"], "--np_dir does not go with"),
        (["--by", "taxon", "--fasta", "x", "--seed", "0"], "--seed does not go with"),
        (["--by", "taxon", "--fasta", "x", "--components", "9"], "--components does not go with"),
        (["--by", "taxon", "--fasta", "nowhere.fasta"], "nowhere.fasta: no such file"),
        (["--np_dir", "nowhere"], "nowhere: no such directory"),
    ],
)
def test_cluster_refuses_options_that_cannot_be_used(tmp_path, capsys, arguments, message):
    line = refused(capsys, "cluster", *arguments, "--output", tmp_path / "out.parquet")
    assert message in line
    assert not list(tmp_path.iterdir())


def test_subsample_names_the_option_to_lower(tmp_path, fasta, capsys):
    table = tmp_path / "t.parquet"
    call("cluster", "--by", "taxon", "--fasta", fasta, "--output", table)
    capsys.readouterr()
    line = refused(capsys, "subsample_cluster", "--clusters", table, "--output", tmp_path / "s")
    assert "no cluster has 2500 members" in line
    assert "'Alpha', has 12; lower --min_size" in line


def test_lengths_are_matched_on_request(tmp_path, fasta, capsys):
    table = tmp_path / "t.parquet"
    call("cluster", "--by", "taxon", "--fasta", fasta, "--output", table)
    capsys.readouterr()
    options = ["--clusters", table, "--min_size", 10, "--per_cluster", 10, "--match_lengths"]
    assert call("subsample_cluster", *options, "--output", tmp_path / "s.json") == 0
    captured = capsys.readouterr()
    assert "20 sequences of 2 clusters; 0 clusters too small, 0 lack some lengths" in captured.out
    assert "largest Kolmogorov-Smirnov distance to all 0." in captured.out
    assert "without the match" in captured.out


def test_a_directory_in_place_of_a_file_is_refused(tmp_path, fasta, capsys):
    for command in ("clusters_to_json", "subsample_cluster"):
        line = refused(capsys, command, "--clusters", tmp_path, "--output", tmp_path / "o.json")
        assert "is a directory" in line
    table = ["--by", "taxon", "--fasta", tmp_path, "--output", tmp_path / "o.parquet"]
    assert "is a directory" in refused(capsys, "cluster", *table)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(command, "--help")
    assert stopped.value.code == 0
    assert f"example:\n  python -m esm_sae.{command} --" in capsys.readouterr().out


def test_importing_the_part_loads_nothing_heavy():
    program = (
        "import sys, esm_sae.clusters, esm_sae.cluster\n"
        "heavy = {'torch', 'jax', 'esm', 'hdbscan', 'sklearn', 'matplotlib', 'dagster'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
