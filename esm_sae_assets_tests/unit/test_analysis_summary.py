from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis import scan_activations, summarise_latents
from esm_sae.analysis.residues import residue_table
from esm_sae.analysis.summary import findings
from esm_sae.errors import InputError
from esm_sae.formats import analysis_tables as tables
from esm_sae.formats.manifest import produce_folder

Run = Callable[..., dict[str, Path]]


@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_one_row_per_latent_the_silent_ones_too(
    fake_sae: Any, analysis_run: Run, pooling: str
) -> None:
    run = analysis_run(fake_sae(pooling=pooling))
    summary = pl.read_parquet(run["summary"])
    assert summary["latent"].to_list() == list(range(24))
    silent = summary.filter(pl.col("firing_rows") == 0)
    assert {22, 23} <= set(silent["latent"])
    assert silent["top_proteins"].list.len().to_list() == [0] * len(silent)
    for column in ("top_taxon", "top_residue", "common_name"):
        assert silent[column].null_count() == len(silent)


def test_top_proteins_are_the_strongest_with_their_names(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(fake_sae(pooling="residue"))
    pairs = pl.read_parquet(run["activations"] / "proteins.parquet")
    for row in pl.read_parquet(run["summary"]).iter_rows(named=True):
        ranked = pairs.filter(pl.col("latent") == row["latent"]).sort(
            "activation", descending=True, maintain_order=True
        )
        top = row["top_proteins"]
        assert [entry["activation"] for entry in top] == ranked["activation"].head(10).to_list()
        assert [entry["position"] for entry in top] == ranked["position"].head(10).to_list()
        for entry in top:
            assert entry["sequence_id"] == f"tr|P{entry['protein']:05d}|P_TEST"
            assert entry["name"] == f"Protein {entry['protein']}"


def test_names_that_say_nothing_are_not_common(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(fake_sae(), header="tr|P{0}|P_TEST Uncharacterized protein OS=Some taxon")
    assert pl.read_parquet(run["summary"])["common_name"].null_count() == 24


def test_fragments_bear_the_name_of_the_whole(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(fake_sae(), header="tr|P{0}|P_TEST Kinase (Fragment) OS=Some taxon")
    firing = pl.read_parquet(run["summary"]).filter(pl.col("firing_rows") > 0)
    assert set(firing["common_name"]) == {"Kinase"}
    assert (firing["common_name_count"] == firing["top_proteins"].list.len()).all()


def test_residue_shares_equal_counting_letters(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(fake_sae(pooling="residue"))
    sequences = pl.read_parquet(run["activations"] / "sequences.parquet")["sequence"].to_list()
    entries = scan_activations(run["activations"]).collect()
    letters: dict[int, Counter[str]] = {}
    for row in entries.iter_rows(named=True):
        letter = sequences[row["protein"]][row["position"] - 1]
        letters.setdefault(row["latent"], Counter())[letter] += 1
    background = Counter("".join(sequences))
    for row in pl.read_parquet(run["summary"]).iter_rows(named=True):
        if row["latent"] not in letters:
            continue
        counts = letters[row["latent"]]
        shares = [counts[letter] / counts.total() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
        np.testing.assert_allclose(row["residues"], shares)
        assert row["top_residue_share"] == pytest.approx(max(shares))
        assert row["top_residue_background"] == pytest.approx(
            background[row["top_residue"]] / background.total()
        )


def test_protein_rows_have_no_residues(fake_sae: Any, analysis_run: Run) -> None:
    summary = pl.read_parquet(analysis_run(fake_sae())["summary"])
    assert summary["top_residue"].null_count() == summary["residues"].null_count() == 24


def test_repeated_run_is_unchanged(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(fake_sae())
    again = summarise_latents(run["activations"], run["taxonomy"], run["summary"])
    assert again.unchanged


def test_lower_case_residues_count_as_their_letters(tmp_path: Path) -> None:
    part = tmp_path / "00000.parquet"
    pl.DataFrame(
        {"row": [0, 1], "protein": [0, 0], "position": [1, 2], "latent": [0, 1]}
    ).write_parquet(part)
    sequences = pl.DataFrame({"protein": [0], "sequence": ["mK"]})
    table = residue_table([part], sequences, 3)
    assert table.select("latent", "top_residue").rows() == [(0, "M"), (1, "K")]


@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_all_tables_of_a_run_are_joined(
    fake_sae: Any, analysis_run: Run, tmp_path: Path, pooling: str
) -> None:
    run = analysis_run(fake_sae(pooling=pooling))
    found = write_findings(tmp_path)
    clusters = _similarity_clusters(tmp_path, run["activations"])
    product = summarise_latents(
        run["activations"], run["taxonomy"], run["summary"], **found, similarity_clusters=clusters
    )
    summary = pl.read_parquet(run["summary"])
    assert dict(summary.schema).items() >= tables.SUMMARY_ADDITIONS.items()
    assert summary["latent"].to_list() == list(range(24))
    parts = [
        findings.best_concepts(found["concepts"]),
        findings.marked_clusters(found["clusters"]),
        findings.map_places(found["clusters"]),
        findings.nearest_latents(found["clusters"]),
        findings.stabilities(found["matches"], 4),
    ]
    for part in parts:
        assert len(part)
        joined = summary.select(part.columns).filter(
            pl.col("latent").is_in(part["latent"].implode())
        )
        assert joined.equals(part)
    counted = product.manifest.summary
    assert (counted["stable_latents"], counted["latents_with_stability"]) == (1, 2)
    assert counted["memory_latents"] == summary["memory"].sum()
    assert counted["latents_with_concept"] == counted["latents_with_marked_cluster"] == 1
    assert sum(counted["labels"].values()) == 24


def test_tables_that_are_not_given_leave_nulls(fake_sae: Any, analysis_run: Run) -> None:
    summary = pl.read_parquet(analysis_run(fake_sae())["summary"])
    given = {"best_taxon", "best_taxon_odds_ratio", "best_taxon_q", "taxonomic"}
    absent = [n for n in tables.SUMMARY_ADDITIONS if n not in given and not n.startswith("label")]
    assert summary.select(absent).null_count().row(0) == (24,) * len(absent)
    # Without similarity clusters nothing is known of families.
    assert {"memory", "similarity_entropy"} <= set(absent)


def test_summary_is_unchanged_until_a_table_or_an_option_changes(
    fake_sae: Any, analysis_run: Run, tmp_path: Path
) -> None:
    run = analysis_run(fake_sae(pooling="residue"))
    common = (run["activations"], run["taxonomy"], run["summary"])
    found = write_findings(tmp_path)
    assert not summarise_latents(*common, **found).unchanged
    first = run["summary"].read_bytes()
    assert summarise_latents(*common, **found).unchanged
    changes: list[dict[str, Any]] = [{"split_seed": 1}, {"k": 8}, {"concepts": None}]
    for options in changes:
        assert not summarise_latents(*common, **(found | options)).unchanged
    summarise_latents(*common, **found)
    assert run["summary"].read_bytes() == first


@pytest.mark.parametrize("name", ["activations", "taxonomy", "concepts", "clusters", "matches"])
def test_an_incomplete_folder_is_named(
    fake_sae: Any, analysis_run: Run, tmp_path: Path, name: str
) -> None:
    found = write_findings(tmp_path)
    run = analysis_run(fake_sae())
    (({**run, **found})[name] / "manifest.json").unlink()
    with pytest.raises(InputError, match=rf"{name}: incomplete"):
        summarise_latents(run["activations"], run["taxonomy"], tmp_path / "x.parquet", **found)


def write_findings(folder: Path) -> dict[str, Any]:
    """Write the tables of concepts, clusters and matches that a summary reads; their folders."""
    of_concept = {"source": "name", "concept": "kinase", "level": "protein"}
    written = {
        "concepts": {
            tables.CONCEPTS: [{**of_concept, "eligible": True}],
            tables.FEATURE_CONCEPTS: [
                {**of_concept, "latent": 3, "validation_f1": 0.5, "test_f1": 0.4, "auroc": 0.7}
            ],
        },
        "clusters": {
            tables.MARKED_CLUSTERS: [
                {"latent": 2, "cluster": 7, "label": "kinase", "train_f1": 0.5, "f1": 0.4},
                {"latent": 2, "cluster": 8, "label": None, "train_f1": 0.6, "f1": 0.3},
            ],
            tables.LATENT_MAP: [{"latent": 0, "x": 0.5, "y": -1.0, "cluster": -1}],
            tables.NEAR_DUPLICATES: [{"latent": 0, "other": 1, "cosine": 0.8}],
        },
        "matches": {
            tables.STABILITY: [
                {"k": 4, "latent": 0, "cosine": 0.9, "correlation": 0.8, "stable": True},
                {"k": 4, "latent": 1, "cosine": 0.2, "correlation": None, "stable": False},
                {"k": 8, "latent": 1, "cosine": 0.9, "correlation": 0.8, "stable": True},
            ]
        },
    }
    schemas = {
        tables.CONCEPTS: tables.CONCEPT_SCHEMA,
        tables.FEATURE_CONCEPTS: tables.FEATURE_CONCEPT_SCHEMA,
        tables.MARKED_CLUSTERS: tables.MARKED_CLUSTER_SCHEMA,
        tables.LATENT_MAP: tables.LATENT_MAP_SCHEMA,
        tables.NEAR_DUPLICATES: tables.NEAR_DUPLICATE_SCHEMA,
        tables.STABILITY: tables.STABILITY_SCHEMA,
    }

    def build(work: Path, files: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        for name, rows in files.items():
            pl.DataFrame(rows, schema=schemas[name]).write_parquet(work / name)
        return {}

    return {
        name: produce_folder(
            folder / name,
            kind=name,
            determinants={},
            build=lambda work, files=files: build(work, files),
        ).path
        for name, files in written.items()
    }


def test_the_best_taxon_is_a_tested_one_with_the_least_q(tmp_path: Path) -> None:
    rows = [
        # latent, taxon, odds ratio, p, q, taxonomic
        (0, "b", 2.0, 0.01, 0.02, False),
        (0, "a", 2.0, 0.02, 0.02, False),
        (0, "c", 9.0, None, None, None),
        (0, "d", 0.5, 1e-9, 1e-8, False),
        (1, "a", 3.0, 1e-4, 1e-3, False),
        (1, "b", 2.0, 0.01, 0.04, True),
        (2, "a", 4.0, None, None, None),
        (3, "a", 0.9, 0.7, 0.9, False),
    ]
    columns = ["latent", "taxon", "odds_ratio", "p_value", "q_value", "taxonomic"]
    schema = {name: tables.TAXONOMY_SCHEMA[name] for name in columns}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(tmp_path / tables.TAXONOMY)
    found = findings.best_taxa(tmp_path).select("latent", "best_taxon", "best_taxon_q", "taxonomic")
    assert found.rows() == [(0, "b", 0.02, False), (1, "b", 0.04, True), (3, None, None, False)]


def test_the_best_concept_is_chosen_on_validation_of_those_that_can_be_judged(
    tmp_path: Path,
) -> None:
    concepts = [("name", "kinase", "protein", True, 0.1), ("name", "rare", "protein", False, 0.1)]
    concepts.append(("sequence", "N-X-S/T", "residue", True, 0.1))
    # Nearly every protein has it somewhere, so that a latent that fires everywhere has a high F1.
    concepts.append(("sequence", "N-X-S/T", "protein", True, 0.95))
    # All bear it: nothing can mark it.
    concepts.append(("word", "protein", "protein", True, 1.0))
    columns = ["source", "concept", "level", "eligible", "validation_trivial_f1"]
    schema = {name: tables.CONCEPT_SCHEMA[name] for name in columns}
    pl.DataFrame(concepts, schema=schema, orient="row").write_parquet(tmp_path / tables.CONCEPTS)
    scores = [
        # latent, concept, F1 on validation, F1 on test
        (0, concepts[0], 0.5, 0.9),
        (0, concepts[1], 0.9, 0.9),
        (0, concepts[2], 0.6, 0.1),
        (1, concepts[1], 0.9, 0.9),
        (1, concepts[3], 0.9, 0.9),
        (2, concepts[0], 0.0, 0.9),
        (3, concepts[0], 0.4, None),
        (3, concepts[4], 1.0, 1.0),
        # Less than a fifth of the way from calling everything to 1.
        (4, concepts[0], 0.25, 0.9),
    ]
    names = ["latent", "source", "concept", "level", "validation_f1", "test_f1", "auroc"]
    schema = {name: tables.FEATURE_CONCEPT_SCHEMA[name] for name in names}
    rows = [(latent, *of[:3], own, test, 0.7) for latent, of, own, test in scores]
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(
        tmp_path / tables.FEATURE_CONCEPTS
    )
    found = findings.best_concepts(tmp_path).select("latent", "best_concept", "best_concept_f1")
    assert found.rows() == [(0, "N-X-S/T", 0.1), (3, "kinase", None)]


def test_near_duplicates_are_found_from_both_sides(tmp_path: Path) -> None:
    rows = [(0, 1, 0.8, None), (0, 2, 0.9, None), (3, 2, 0.9, None)]
    pl.DataFrame(rows, schema=tables.NEAR_DUPLICATE_SCHEMA, orient="row").write_parquet(
        tmp_path / tables.NEAR_DUPLICATES
    )
    found = findings.nearest_latents(tmp_path).select("latent", "nearest_latent")
    assert found.rows() == [(0, 2), (1, 0), (2, 0), (3, 2)]


def test_latents_clustered_alone_mark_nothing(tmp_path: Path) -> None:
    assert len(findings.marked_clusters(tmp_path)) == 0


def _similarity_clusters(folder: Path, activations: Path) -> Path:
    ids = pl.read_parquet(activations / tables.SEQUENCES)["sequence_id"]
    path = folder / "similarity.parquet"
    clusters = [f"C{number // 3}" for number in range(len(ids))]
    pl.DataFrame({"sequence_id": ids, "cluster_id": clusters}).write_parquet(path)
    return path
