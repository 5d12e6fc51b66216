import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae import analyze
from esm_sae.data import bundled_clusters
from esm_sae.formats.checkpoint import SAEConfig, write_checkpoint, write_config
from esm_sae.storage import sha256_of

SIZES = {"Homo sapiens": 6, "Mus musculus": 5, "Lonely": 1}


def _write_sae(folder: Path, *, width: int = 8, config: dict[str, Any] | None = None) -> Path:
    """Write a random checkpoint; without ``config`` a bare file as the original's."""
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((width, 24)).astype(np.float32)
    kernel[:, -2:] = 0
    path = folder / "checkpoint_epoch_1.npy"
    write_checkpoint(
        path,
        encoder=kernel,
        decoder=kernel.T,
        latent_bias=np.zeros(24),
        pre_bias=np.zeros(width),
    )
    if config is not None:
        recorded = SAEConfig(width, 24, 4, final_checkpoint=path.name)
        write_config(folder, replace(recorded, **config))
    return path


# The weights are random.
@pytest.mark.filterwarnings("ignore:.*rows unexplained:UserWarning")
@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_tables_heatmap_mapping_and_report_from_files_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_clusters: Any, pooling: str
) -> None:
    clusters, _, _ = write_clusters(tmp_path / "in", SIZES, residues=pooling == "residue")
    _write_sae(tmp_path / "L24_k4", config={"pooling": pooling, "encoder": "esmc_test"})
    arguments = ["--clusters", str(clusters), "--checkpoint", str(tmp_path / "L24_k4"), "--quiet"]
    output = tmp_path / "out"
    assert analyze.main([*arguments, "--output", str(output)]) == 0
    assert "12 proteins of 3 taxa" in capsys.readouterr().out
    for name in (
        "taxonomy/feature_taxonomy.parquet",
        "taxonomy/heatmap.png",
        "taxonomy/feature_taxonomy_mapping.json",
        "activations/proteins.parquet",
        "report.html",
    ):
        assert (output / name).is_file()
    assert len(pl.read_parquet(output / "feature_summary.parquet")) == 24
    assert analyze.main([*arguments, "--output", str(output)]) == 0
    assert "(unchanged)" in capsys.readouterr().out


def test_default_output_is_named_for_the_sae(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_clusters: Any
) -> None:
    clusters, _, _ = write_clusters(tmp_path / "in", SIZES)
    _write_sae(tmp_path / "sae", config={"pooling": "mean"})
    monkeypatch.chdir(tmp_path)
    assert analyze.main(["--clusters", str(clusters), "--checkpoint", "sae", "--quiet"]) == 0
    assert (tmp_path / "data/analysis/L24_k4/report.html").is_file()


def test_a_bare_checkpoint_works_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_clusters: Any
) -> None:
    clusters, _, _ = write_clusters(tmp_path / "in", SIZES)
    path = _write_sae(tmp_path / "bare")
    options = ["--clusters", str(clusters), "--checkpoint", str(path), "--quiet"]
    output = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert analyze.main([*options, "--topk", "3", "--output", str(output)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: ")
    mapping = json.loads((output / "taxonomy/feature_taxonomy_mapping.json").read_text())
    assert mapping


def test_pooling_is_for_checkpoints_that_do_not_record_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_clusters: Any
) -> None:
    clusters, _, _ = write_clusters(tmp_path / "in", SIZES, residues=True)
    options = ["--clusters", str(clusters), "--pooling", "residue", "--quiet"]
    bare = _write_sae(tmp_path / "bare_k4")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = analyze.main(
            [*options, "--checkpoint", str(bare), "--output", str(tmp_path / "out")]
        )
    assert done == 0
    activations = pl.read_parquet(tmp_path / "out/activations/by_row/*.parquet")
    assert activations["position"].null_count() == 0
    _write_sae(tmp_path / "sae", config={"pooling": "mean"})
    refused = [*options, "--checkpoint", str(tmp_path / "sae"), "--output", str(tmp_path / "no")]
    assert analyze.main(refused) == 2
    assert "was trained on mean rows, not residue rows" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["clusters.residues.npy", "clusters.residues.parquet"])
def test_damaged_residue_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_clusters: Any, name: str
) -> None:
    clusters, _, _ = write_clusters(tmp_path / "in", SIZES, residues=True)
    damaged = next((tmp_path / "in").glob(f"*{name.removeprefix('clusters')}"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    _write_sae(tmp_path / "sae", config={"pooling": "residue"})
    options = ["--clusters", str(clusters), "--checkpoint", str(tmp_path / "sae"), "--quiet"]
    assert analyze.main([*options, "--output", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert damaged.name in errors[0]


def test_another_width_is_one_line_that_names_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_clusters: Any
) -> None:
    clusters, _, _ = write_clusters(tmp_path / "in", SIZES)
    _write_sae(tmp_path / "sae", width=16, config={"pooling": "mean"})
    options = ["--clusters", str(clusters), "--checkpoint", str(tmp_path / "sae"), "--quiet"]
    assert analyze.main([*options, "--output", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "8 wide" in errors[0]
    assert "16 wide" in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "holds no cluster"),
        ('{"Homo sapiens": [["MK", "P1"]]}', "lacks sequence, header or embedding"),
    ],
)
def test_json_of_another_shape_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    clusters = tmp_path / "clusters.json"
    clusters.write_text(content)
    _write_sae(tmp_path / "sae", config={"pooling": "mean"})
    options = ["--clusters", str(clusters), "--checkpoint", str(tmp_path / "sae")]
    assert analyze.main([*options, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        analyze.main(["--help"])
    assert "python -m esm_sae.analyze --clusters" in capsys.readouterr().out


def test_the_split_is_that_of_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_clusters: Any
) -> None:
    clusters, _, _ = write_clusters(tmp_path / "in", SIZES)
    bundled = sha256_of(bundled_clusters())
    for name, table in (("bundled", bundled), ("other", "0" * 64)):
        split = {"seed": 3, "similarity_clusters": table}
        _write_sae(tmp_path / name, config={"pooling": "mean", "training": {"split": split}})
    arguments = ["--clusters", str(clusters), "--quiet", "--output", str(tmp_path / "out")]
    assert analyze.main([*arguments, "--checkpoint", str(tmp_path / "bundled")]) == 0
    determinants = json.loads((tmp_path / "out/concepts/manifest.json").read_text())["determinants"]
    assert determinants["split_seed"] == 3
    assert determinants["similarity_clusters"] == bundled
    seeded = ["--checkpoint", str(tmp_path / "bundled"), "--split_seed", "0"]
    for wrong in (seeded, ["--checkpoint", str(tmp_path / "other")]):
        capsys.readouterr()
        assert analyze.main([*arguments, *wrong]) == 2
        assert re.search("another split|name their table", capsys.readouterr().err)


def test_proteins_that_cannot_stand_in_a_fasta_file_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_clusters: Any
) -> None:
    clusters, _, _ = write_clusters(tmp_path / "in", SIZES)
    content = json.loads(clusters.read_text())
    clusters.with_suffix(".parquet").unlink(missing_ok=True)
    entries = content["Homo sapiens"]
    entries[0]["sequence"], entries[1]["sequence"] = "", "MK*L"
    entries[2]["header"] += "\n>P9 injected"
    clusters.write_text(json.dumps(content))
    _write_sae(tmp_path / "L24_k4", config={"pooling": "mean"})
    arguments = ["--clusters", str(clusters), "--checkpoint", str(tmp_path / "L24_k4")]
    assert analyze.main([*arguments, "--quiet", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"{clusters}: 3 proteins have no id" in printed
    assert "no protein families are known" in printed
    assert (tmp_path / "out/sequences.fasta").read_text().count(">") == 9


def test_annotations_that_are_not_there_are_told_of_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_clusters: Any
) -> None:
    clusters, _, _ = write_clusters(tmp_path / "in", SIZES)
    _write_sae(tmp_path / "L24_k4", config={"pooling": "mean"})
    arguments = ["--clusters", str(clusters), "--checkpoint", str(tmp_path / "L24_k4")]
    output = tmp_path / "out"
    wrong = ["--annotations", str(tmp_path / "none.tsv"), "--output", str(output)]
    assert analyze.main([*arguments, *wrong]) == 2
    assert "none.tsv: no such file" in capsys.readouterr().err
    assert not output.exists()
