"""Baselines of concepts on planted proteins."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis.concepts import baselines
from esm_sae.analysis.concepts.annotations import annotate_concepts
from esm_sae.analysis.concepts.baselines import score_baselines
from esm_sae.analysis.concepts.comparison_figure import comparison_figure
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import (
    BASELINE_CONCEPT_SCHEMA,
    BASELINE_CONCEPTS,
    BASELINE_SCHEMA,
    BASELINES,
)
from esm_sae.formats.shards import Provenance
from plain_rows import PlainRows

PROTEINS, WIDTH, LATENTS = 400, 8, 24
ENCODER = Provenance(encoder="esmc_test", weights_sha256="0" * 64, layer=3)
OPTIONS: dict[str, Any] = {"latent_dim": 16, "untrained": None}


class Run(NamedTuple):
    """Proteins of which every fourth is a kinase and every third has a stretch at 11 to 29.

    Dimension 2 is low on one residue of a kinase, dimension 5 high within a stretch; all else is
    chance.
    """

    fasta: Path
    annotations: Path
    residues: PlainRows
    means: PlainRows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    generator = np.random.default_rng(0)
    text, table, parts = "", [], []
    for number in range(PROTEINS):
        stretch = "L" * 19 if number % 3 == 0 else "DEK" * 6 + "D"
        sequence = f"DEKDEKDEKD{stretch}KEDKEDKEDK"
        name = "Kinase A" if number % 4 == 0 else f"Thing {number}"
        text += f">tr|P{number}|X {name}\n{sequence}\n"
        positions = np.arange(1, 40, 4)
        x = generator.standard_normal((len(positions), WIDTH)).astype(np.float32)
        if number % 4 == 0:
            x[generator.integers(len(x)), 2] = -20
        if number % 3 == 0:
            x[(positions >= 11) & (positions <= 29), 5] += 20
        parts.append(x)
        table += [
            {"sequence_id": f"tr|P{number}|X", "length": len(sequence), "position": position}
            for position in positions
        ]
    fasta = folder / "proteins.fasta"
    fasta.write_text(text)
    annotations = annotate_concepts(fasta, folder / "annotations.parquet").path
    rows = pl.DataFrame(table)
    residues = PlainRows(
        np.concatenate(parts), rows, replace(ENCODER, pooling="residue"), "residues"
    )
    of_proteins = rows.unique("sequence_id", keep="first", maintain_order=True)
    means = np.stack([part.mean(axis=0) for part in parts])
    whole = of_proteins.with_columns(position=pl.lit(None, dtype=pl.Int64))
    return Run(
        fasta,
        annotations,
        residues,
        PlainRows(means, whole, replace(ENCODER, pooling="mean"), "means"),
    )


@pytest.fixture(scope="module")
def product(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return score(run, tmp_path_factory.mktemp("out") / "baselines", run.residues)


def score(run: Run, output: Path, rows: PlainRows, **options: Any) -> Any:
    settings = {"fasta": run.fasta, "random": {}, **OPTIONS, **options}
    return score_baselines(rows, options.pop("annotations", run.annotations), output, **settings)


def row_of(product: Any, table: str, **wanted: Any) -> dict[str, Any]:
    rows = pl.read_parquet(product.path / table)
    return rows.row(
        by_predicate=pl.all_horizontal(pl.col(k) == v for k, v in wanted.items()), named=True
    )


def test_tables_have_a_row_for_each_method_and_level(product: Any) -> None:
    table = pl.read_parquet(product.path / BASELINES)
    assert table.schema == pl.Schema(BASELINE_SCHEMA)
    methods = ["raw", "pca", "kmeans", "composition", "probe"]
    assert table["method"].to_list() == methods * 2
    assert table["level"].to_list() == ["protein"] * 5 + ["residue"] * 5
    assert table["candidates"].to_list() == [16, 16, 16, 840, 4, 16, 16, 16, 1640, 4]
    concepts = pl.read_parquet(product.path / BASELINE_CONCEPTS)
    assert concepts.schema == pl.Schema(BASELINE_CONCEPT_SCHEMA)
    summary = product.manifest.summary
    assert summary["proteins"] == PROTEINS
    held_out = summary["validation_proteins"] + summary["test_proteins"]
    assert summary["judged_proteins"] == held_out
    of_level = summary["levels"]["protein"]
    assert (
        of_level["eligible_concepts"]
        == concepts.filter(pl.col("level") == "protein", pl.col("method") == "raw").height
    )


def test_a_planted_dimension_is_found_with_its_sign(product: Any) -> None:
    kinase = {"concept": "kinase a", "level": "protein", "source": "name"}
    raw = row_of(product, BASELINE_CONCEPTS, method="raw", **kinase)
    assert raw["feature"] == WIDTH + 2
    assert raw["test_f1"] == raw["validation_f1"] == raw["auroc"] == 1
    assert raw["threshold"] > 15
    stretch = {"concept": "transmembrane-like stretch", "level": "residue"}
    raw = row_of(product, BASELINE_CONCEPTS, method="raw", **stretch)
    assert raw["feature"] == 5
    assert raw["test_f1"] > 0.95
    assert row_of(product, BASELINE_CONCEPTS, method="probe", **stretch)["test_f1"] > 0.9
    assert row_of(product, BASELINE_CONCEPTS, method="kmeans", **stretch)["test_f1"] > 0.5
    # What a kinase is, its sequence does not tell.
    blind = row_of(product, BASELINE_CONCEPTS, method="composition", **kinase)
    assert blind["test_f1"] < 0.6


def test_pooled_figures_follow_from_the_concepts(product: Any) -> None:
    concepts = pl.read_parquet(product.path / BASELINE_CONCEPTS).filter("pooled")
    for row in pl.read_parquet(product.path / BASELINES).iter_rows(named=True):
        of_row = concepts.filter(pl.col("method") == row["method"], pl.col("level") == row["level"])
        assert row["concepts"] == len(of_row) > 0
        assert row["mean_f1"] == pytest.approx(of_row["test_f1"].mean())
        assert row["mean_auroc"] == pytest.approx(of_row["auroc"].mean())
        assert row["pooled_f1_low"] <= row["pooled_f1"] <= row["pooled_f1_high"]


def test_the_same_input_gives_the_same_bytes(product: Any, run: Run, tmp_path: Path) -> None:
    again = score(run, tmp_path / "again", run.residues)
    assert again.manifest == product.manifest
    assert score(run, tmp_path / "again", run.residues).unchanged
    other = score(run, tmp_path / "other", run.residues, seed=1)
    assert other.manifest.fingerprint != product.manifest.fingerprint


def test_latents_of_other_encoders_are_judged_by_k(run: Run, tmp_path: Path, fake_sae: Any) -> None:
    config = {"pooling": "residue", **fake_sae.ENCODER}
    kinase = fake_sae(WIDTH, LATENTS, 4, **config)
    kinase.kernel[2, 7] = -5
    chance = np.random.default_rng(1).standard_normal(run.residues.matrix.shape)
    noise = replace(run.residues, matrix=chance.astype(np.float32), fingerprint="n")
    product = score(
        run,
        tmp_path / "out",
        run.residues,
        random={8: fake_sae(WIDTH, LATENTS, 8, **config), 4: kinase},
        untrained=(noise, {4: fake_sae(WIDTH, LATENTS, 4, **config)}),
    )
    table = pl.read_parquet(product.path / BASELINES).filter(pl.col("k").is_not_null())
    assert table.select("method", "k", "candidates").head(3).rows() == [
        ("random", 4, LATENTS),
        ("random", 8, LATENTS),
        ("untrained", 4, LATENTS),
    ]
    found = {"concept": "kinase a", "level": "protein", "k": 4}
    best = row_of(product, BASELINE_CONCEPTS, method="random", **found)
    assert best["feature"] == 7
    assert best["test_f1"] > 0.9
    assert row_of(product, BASELINE_CONCEPTS, method="untrained", **found)["test_f1"] < 0.6


def test_protein_rows_have_no_residues_to_judge(run: Run, tmp_path: Path) -> None:
    product = score(run, tmp_path / "out", run.means)
    assert set(pl.read_parquet(product.path / BASELINES)["level"]) == {"protein"}


def test_too_many_residues_are_left_out(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "_MOST_RESIDUES", 10)
    product = score(run, tmp_path / "out", run.residues)
    assert list(product.manifest.summary["levels"]) == ["protein"]


def test_no_eligible_concept_leaves_empty_tables(run: Run, tmp_path: Path) -> None:
    product = score(run, tmp_path / "out", run.residues, min_positives=1000)
    assert pl.read_parquet(product.path / BASELINES).schema == pl.Schema(BASELINE_SCHEMA)
    assert pl.read_parquet(product.path / BASELINES).is_empty()
    assert product.manifest.summary["levels"]["protein"]["eligible_concepts"] == 0
    nothing = ["sae", 4, "protein", LATENTS, 0, None, None, None, None, None]
    own = pl.DataFrame([nothing], schema=BASELINE_SCHEMA, orient="row")
    assert comparison_figure(own, product.path).startswith(b"\x89PNG")


def test_bad_input_is_named(run: Run, tmp_path: Path, fake_sae: Any) -> None:
    rows = run.residues
    foreign = fake_sae(WIDTH, LATENTS, 4, pooling="residue", encoder="other", layer=3)
    with pytest.raises(InputError, match="esmc_test"):
        score(run, tmp_path / "out", rows, random={4: foreign})
    wide = fake_sae(WIDTH + 1, LATENTS, 4, pooling="residue", **fake_sae.ENCODER)
    with pytest.raises(InputError, match="9"):
        score(run, tmp_path / "out", rows, random={4: wide})
    shifted = replace(rows, table=rows.table.with_columns(pl.col("position") + 1))
    with pytest.raises(InputError, match="not the proteins and residues"):
        score(run, tmp_path / "out", rows, untrained=(shifted, {}))
    with pytest.raises(InputError, match="min_positives is 0"):
        score(run, tmp_path / "out", rows, min_positives=0)
    few = tmp_path / "few.fasta"
    few.write_text(">tr|P0|X Kinase A\nDEK\n")
    with pytest.raises(InputError, match="has no protein tr"):
        score(run, tmp_path / "out", rows, fasta=few)
    unknown = rows.table.with_columns(pl.lit("Q") + pl.col("sequence_id"))
    unknown = replace(rows, table=rows.table.with_columns(sequence_id=unknown["literal"]))
    with pytest.raises(InputError, match="says nothing of any of these proteins"):
        score(run, tmp_path / "out", unknown)
    broken = rows.matrix.copy()
    broken[-1] = np.inf
    with pytest.raises(InputError, match=f"row {len(broken) - 1} holds NaN or infinity"):
        score(run, tmp_path / "out", replace(rows, matrix=broken))
    assert not (tmp_path / "out").exists()


def test_the_figure_shows_the_baselines_of_its_k(product: Any) -> None:
    figures = [0.5, 0.4, 0.6, 0.5, 0.7]
    rows = [["sae", 4, level, LATENTS, 3, *figures] for level in ("protein", "residue")]
    own = pl.DataFrame(rows, schema=BASELINE_SCHEMA, orient="row")
    alone, beside = comparison_figure(own, None), comparison_figure(own, product.path)
    assert alone.startswith(b"\x89PNG")
    assert len(beside) > len(alone)
    assert comparison_figure(own, product.path) == beside
    with pytest.raises(InputError, match="not a table of baselines"):
        comparison_figure(own, product.path / "nothing")
