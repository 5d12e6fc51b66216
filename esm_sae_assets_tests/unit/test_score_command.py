import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae import embed_uniref, score
from esm_sae.analysis import compute_activations
from esm_sae.embedding import register_encoder
from esm_sae.formats.checkpoint import SAEConfig, write_checkpoint, write_config
from esm_sae.formats.shards import open_shards
from esm_sae.sae import load_checkpoint
from esm_sae.sharing import share_sae
from own_proteins import write_concepts, write_summary

ToyBackbone = runpy.run_path(str(Path(__file__).with_name("toy_encoder.py")))["ToyBackbone"]
register_encoder("wide_toy", type("WideBackbone", (ToyBackbone,), {"width": 5}))
WIDTH, LATENTS = 4, 6
RECORDS = [
    ("tr|P00001|A_X Kinase OS=Taxon OX=9", "MKVLAW"),
    ("P2", "WWAAAWWMK"),
    ("P3 Zinc finger", "CCCCC"),
]
RECORDED = {"encoder": "toy", "weights_sha256": "0" * 64, "layer": 1, "pooling": "residue"}


@pytest.fixture
def write_sae(tmp_path: Path) -> Any:
    """Return a function that writes a checkpoint; what is None is not recorded."""

    def write(name: str = "sae", **config: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        kernel = np.random.default_rng(0).standard_normal((WIDTH, LATENTS)).astype(np.float32)
        file = folder / "checkpoint_epoch_1.npy"
        write_checkpoint(
            file,
            encoder=kernel,
            decoder=kernel.T,
            latent_bias=np.zeros(LATENTS),
            pre_bias=np.zeros(WIDTH),
        )
        write_config(folder, SAEConfig(WIDTH, LATENTS, 2, final_checkpoint=file.name, **config))
        return folder

    return write


def _score(fasta: Path, sae: Path, output: Path, *options: object) -> int:
    arguments = ["--fasta", fasta, "--checkpoint", sae, "--output", output, "--device", "cpu"]
    return score.main([*map(str, arguments), "--quiet", *map(str, options)])


def _analysis(folder: Path, fasta: Path, sae: Path, pooling: str = "residue") -> Path:
    """Write the parts of an analysis that the command reads, of the same proteins."""
    shards = folder / "shards"
    options = f"--pooling {pooling} --model toy --device cpu --quiet"
    embed_uniref.main(["--fasta", str(fasta), "--output", str(shards), *options.split()])
    compute_activations(
        load_checkpoint(sae), open_shards(shards), folder / "activations", fasta=fasta
    )
    write_summary(folder / "feature_summary.parquet", {n: (f"name {n}", 0.6) for n in range(6)})
    return folder


def test_tables_and_page_without_an_analysis(
    write_fasta: Any, write_sae: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta, sae, output = write_fasta(RECORDS), write_sae(**RECORDED), tmp_path / "out"
    assert _score(fasta, sae, output) == 0
    printed = capsys.readouterr()
    assert "3 proteins: " in printed.out
    assert f"open {output / 'report.html'}" in printed.out
    assert printed.err == ""
    of_proteins = pl.read_parquet(output / "proteins" / "protein_latents.parquet")
    assert of_proteins["sequence_id"].unique(maintain_order=True).to_list() == [
        "tr|P00001|A_X",
        "P2",
        "P3",
    ]
    # Every residue is there.
    activations = pl.read_parquet(output / "activations" / "sequences.parquet")
    assert activations["rows"].to_list() == [len(sequence) for _, sequence in RECORDS]
    assert not (output / "annotations.parquet").exists()
    assert _score(fasta, sae, output) == 0
    assert "(unchanged)" in capsys.readouterr().out


def test_names_and_candidates_of_an_analysis(
    write_fasta: Any, write_sae: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta, sae, output = write_fasta(RECORDS), write_sae(**RECORDED), tmp_path / "out"
    analysis = _analysis(tmp_path / "analysis", fasta, sae)
    pairs = pl.read_parquet(analysis / "activations" / "proteins.parquet")
    latent = pairs.group_by("latent").len().filter(pl.col("len") == 3)["latent"].min()
    concept = {"concept": "kinase", "latent": latent, "threshold": 1e-6}
    write_concepts(analysis / "concepts", [concept])
    (analysis / "report.html").write_text("the report")
    assert _score(fasta, sae, output, "--analysis", analysis) == 0
    assert "2 candidates on 2 proteins for 1 concepts" in capsys.readouterr().out
    of_proteins = pl.read_parquet(output / "proteins" / "protein_latents.parquet")
    assert of_proteins["label"].null_count() == 0
    candidates = pl.read_parquet(output / "proteins" / "candidates.parquet")
    assert set(candidates["sequence_id"]) == {"P2", "P3"}
    assert "../analysis/report.html" in (output / "report.html").read_text()


def test_a_checkpoint_that_records_nothing_takes_options(
    write_fasta: Any, write_sae: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta, sae = write_fasta(RECORDS), write_sae()
    assert _score(fasta, sae, tmp_path / "out") == 2
    assert "does not record its encoder; name it with --model" in capsys.readouterr().err
    assert _score(fasta, sae, tmp_path / "out", "--model", "toy") == 0
    assert open_shards(tmp_path / "out" / "embeddings").rows == 3
    options = ["--model", "toy", "--pooling", "residue", "--layer", "0"]
    assert _score(fasta, sae, tmp_path / "residues", *options) == 0
    shards = open_shards(tmp_path / "residues" / "embeddings")
    assert (shards.rows, shards.provenance.layer) == (20, 0)


@pytest.mark.parametrize(
    ("recorded", "options", "message"),
    [
        ({}, ["--layer", "0"], "layer (0 and 1)"),
        ({}, ["--pooling", "mean"], "pooling (mean and residue)"),
        ({}, ["--model", "wide_toy"], "5 wide"),
        ({"weights_sha256": "f" * 64}, [], "encoder weights (0000"),
        ({"encoder": "esmc_9b"}, [], "encoder 'esmc_9b': expected one of"),
        ({"encoder": "other"}, ["--model", "toy"], "encoder (toy and other)"),
        # What a file records is never imported: that module would not even be found.
        ({"encoder": "no_such_module:Own"}, [], "only run when you name it; if you trust it: --mo"),
    ],
)
def test_another_encoder_is_one_line_before_anything_is_embedded(
    write_fasta: Any,
    write_sae: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recorded: dict[str, Any],
    options: list[str],
    message: str,
) -> None:
    sae = write_sae(**RECORDED | recorded)
    assert _score(write_fasta(RECORDS), sae, tmp_path / "out", *options) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("MKV\n", "does not start with"),
        (">P1\nMK1\n", "P1"),
        (">P1\nMKV\n>P1 again\nMKA\n", "1 ids occur more than once, the first is P1"),
    ],
)
def test_bad_fasta_is_one_line(
    write_sae: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    message: str,
) -> None:
    fasta = tmp_path / "bad.fasta"
    fasta.write_text(content)
    assert _score(fasta, write_sae(**RECORDED), tmp_path / "out") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "bad.fasta" in errors[0]
    assert message in errors[0]


def test_an_analysis_of_another_checkpoint_is_refused_first(
    write_fasta: Any, write_sae: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta, sae = write_fasta(RECORDS), write_sae(**RECORDED)
    analysis = _analysis(tmp_path / "analysis", fasta, sae)
    other = write_sae("other", **RECORDED)
    content = np.load(other / "checkpoint_epoch_1.npy", allow_pickle=True).item()
    content["lb_L"] = content["lb_L"] + 1
    np.save(other / "checkpoint_epoch_1.npy", content)
    for folder, message in ((analysis, "another checkpoint"), (tmp_path, "no folder of activ")):
        assert _score(fasta, other, tmp_path / "out", "--analysis", folder) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_shared_sae_takes_the_analysis_of_the_checkpoint(
    write_fasta: Any, write_sae: Any, tmp_path: Path
) -> None:
    fasta, sae = write_fasta(RECORDS), write_sae(**RECORDED)
    analysis = _analysis(tmp_path / "analysis", fasta, sae)
    shared = share_sae(sae, tmp_path / "shared").path
    for checkpoint, output in ((sae, "one"), (shared, "other")):
        assert _score(fasta, checkpoint, tmp_path / output, "--analysis", analysis) == 0
    one, other = (
        pl.read_parquet(tmp_path / output / "proteins" / "protein_latents.parquet")
        for output in ("one", "other")
    )
    assert one["label"].str.starts_with("name ").all()
    assert one.equals(other)


@pytest.mark.parametrize(("analysed", "own"), [("residue", "mean"), ("mean", "residue")])
def test_poolings_are_not_mixed(
    write_fasta: Any,
    write_sae: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    analysed: str,
    own: str,
) -> None:
    fasta, sae = write_fasta(RECORDS), write_sae()
    analysis = _analysis(tmp_path / "analysis", fasta, sae, analysed)
    options = ["--model", "toy", "--analysis", analysis]
    assert _score(fasta, sae, tmp_path / "mixed", *options, "--pooling", own) == 2
    assert f"differ in pooling ({analysed} and {own})" in capsys.readouterr().err
    assert not (tmp_path / "mixed").exists()
    # What the checkpoint does not record is that of the analysis.
    assert _score(fasta, sae, tmp_path / "out", *options) == 0
    assert open_shards(tmp_path / "out" / "embeddings").provenance.pooling == analysed


@pytest.mark.parametrize(
    ("recorded", "options", "message"),
    [
        ({"layer": 1}, ["--layer", "0"], "differ in layer (1 and 0)"),
        ({"encoder": "other"}, [], "differ in encoder (other and toy)"),
        ({"weights_sha256": "f" * 64}, [], "differ in encoder weights (ffff"),
    ],
)
def test_an_analysis_of_other_rows_is_refused(
    write_fasta: Any,
    write_sae: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recorded: dict[str, Any],
    options: list[str],
    message: str,
) -> None:
    fasta, sae = write_fasta(RECORDS), write_sae()
    analysis = _analysis(tmp_path / "analysis", fasta, sae)
    path = analysis / "activations" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["determinants"]["config"] |= recorded
    path.write_text(json.dumps(manifest))
    options = ["--model", "toy", "--analysis", str(analysis), *options]
    assert _score(fasta, sae, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_annotations_need_concepts_and_a_file(
    write_fasta: Any, write_sae: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta, sae = write_fasta(RECORDS), write_sae(**RECORDED)
    annotations = ["--annotations", tmp_path / "none.tsv"]
    assert _score(fasta, sae, tmp_path / "out", *annotations) == 2
    assert "--annotations needs --analysis" in capsys.readouterr().err
    analysis = _analysis(tmp_path / "analysis", fasta, sae)
    assert _score(fasta, sae, tmp_path / "out", *annotations, "--analysis", analysis) == 2
    assert "has no concepts" in capsys.readouterr().err
    write_concepts(analysis / "concepts", [{"concept": "kinase"}])
    assert _score(fasta, sae, tmp_path / "out", *annotations, "--analysis", analysis) == 2
    assert "none.tsv: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_what_was_looked_up_is_a_candidate_for_a_concept_of_uniprot(
    write_fasta: Any, write_sae: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta, sae, output = write_fasta(RECORDS), write_sae(**RECORDED), tmp_path / "out"
    analysis = _analysis(tmp_path / "analysis", fasta, sae)
    concept = {"concept": "keyword: Kinase", "source": "uniprot", "threshold": 1e-6}
    pairs = pl.read_parquet(analysis / "activations" / "proteins.parquet")
    concept["latent"] = pairs.group_by("latent").len().filter(pl.col("len") == 3)["latent"].min()
    write_concepts(analysis / "concepts", [concept])
    assert _score(fasta, sae, output, "--analysis", analysis) == 0
    printed = capsys.readouterr().out
    assert "0 candidates on 0 proteins for 1 concepts" in printed
    assert "not looked up in UniProt: 3 more, on 3 proteins" in printed
    export = tmp_path / "export.tsv"
    export.write_text("Entry\tKeywords\nP00001\tKinase\nP2\tMembrane\n")
    options = ["--analysis", analysis, "--annotations", export]
    assert _score(fasta, sae, output, *options) == 0
    printed = capsys.readouterr().out
    assert "not looked up in UniProt: 1 more, on 1 proteins" in printed
    candidates = pl.read_parquet(output / "proteins" / "candidates.parquet")
    assert "P3" not in candidates["sequence_id"]
    assert "P2" in candidates["sequence_id"]


def test_a_run_without_an_analysis_takes_the_annotations_of_the_last_away(
    write_fasta: Any, write_sae: Any, tmp_path: Path
) -> None:
    fasta, sae, output = write_fasta(RECORDS), write_sae(**RECORDED), tmp_path / "out"
    analysis = _analysis(tmp_path / "analysis", fasta, sae)
    write_concepts(analysis / "concepts", [{"concept": "kinase"}])
    assert _score(fasta, sae, output, "--analysis", analysis) == 0
    assert len(list(output.glob("annotations*"))) == 3
    (output / "annotations.mine.txt").write_text("notes")
    assert _score(fasta, sae, output) == 0
    assert [path.name for path in output.glob("annotations*")] == ["annotations.mine.txt"]
    assert not (output / "proteins" / "candidates.parquet").exists()
    # What someone has put in its place stays.
    assert _score(fasta, sae, output, "--analysis", analysis) == 0
    (output / "annotations.parquet").write_text("mine")
    assert _score(fasta, sae, output) == 0
    assert (output / "annotations.parquet").read_text() == "mine"


@pytest.mark.filterwarnings("always::UserWarning")
def test_nucleotides_are_warned_of(
    write_fasta: Any, write_sae: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sae = write_sae(**RECORDED)
    dna = write_fasta([("G1", "ATGGCNTTACGGATTACCAG"), ("G2", "acguacguccgauuacgnac")])
    assert _score(dna, sae, tmp_path / "out") == 0
    [warning] = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {dna}: 100% of its letters are A, C, G, T, U or N")
    # One protein of such letters among others is none.
    assert _score(write_fasta([*RECORDS, ("P4", "GAGAGA")]), sae, tmp_path / "proteins") == 0
    assert capsys.readouterr().err == ""


def test_long_proteins_are_embedded_in_windows_or_left_out(
    write_fasta: Any, write_sae: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta, sae = write_fasta(RECORDS), write_sae(**RECORDED)
    window = ["--max_len", "8", "--long", "window"]
    assert _score(fasta, sae, tmp_path / "window", *window) == 0
    assert open_shards(tmp_path / "window" / "embeddings").rows == 20
    assert _score(fasta, sae, tmp_path / "skip", "--max_len", "8", "--long", "skip") == 0
    assert "2 proteins, 1 left out" in capsys.readouterr().out
