from pathlib import Path

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis.concepts.annotations import annotate_concepts
from esm_sae.analysis.concepts.feature_concepts import score_concepts
from esm_sae.analysis.concepts.labels import (
    concept_counts,
    only,
    pooled_concepts,
    protein_labels,
    residue_labels,
    universe_path,
)
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import (
    ANNOTATION_SCHEMA,
    BASELINE_SCHEMA,
    BASELINES,
    CONCEPT_SCHEMA,
    FEATURE_CONCEPT_SCHEMA,
)
from esm_sae.formats.manifest import produce_folder
from esm_sae.split import cluster_ids_of, splits_of

PROTEINS, LATENTS = 600, 6
KINASE = range(0, PROTEINS, 5)
HELIX = "L" * 19


def sequence_of(number: int) -> str:
    # Every fourth protein has a stretch at 11 to 29.
    return "DEKDEKDEKD" + (HELIX if number % 4 == 0 else "DEK" * 6 + "D") + "KEDKEDKEDK"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A FASTA file, its annotations and a folder of activations of residues.

    Latent 0 fires on all residues of kinases, 1 within the stretches and on one residue outside,
    2 on chance, 3 never, 4 on kinases of training only, 5 everywhere.
    """
    tmp_path = tmp_path_factory.mktemp("run")
    fasta = tmp_path / "x.fasta"
    fasta.write_text(
        "".join(
            f">tr|P{n}|X {'Kinase A' if n in KINASE else f'Thing{n}'}\n{sequence_of(n)}\n"
            for n in range(PROTEINS)
        )
    )
    annotations = annotate_concepts(fasta, tmp_path / "annotations.parquet").path
    ids = [f"tr|P{n}|X" for n in range(PROTEINS)]
    splits = splits_of(ids, clusters_of(ids))
    generator = np.random.default_rng(0)
    # Every third residue was encoded.
    positions = np.arange(1, 40, 3)
    frames = []
    for n in range(PROTEINS):
        for place, position in enumerate(positions):
            fires = {5: 1.0 + generator.random()}
            if n in KINASE:
                fires[0] = 2.0 + position / 100
                if splits[n] == "train":
                    fires[4] = 9.0
            if n % 4 == 0 and (11 <= position <= 25 or position == 37):
                fires[1] = 3.0 if position != 37 else 4.0
            if generator.random() < 0.3:
                fires[2] = float(generator.random())
            row = n * len(positions) + place
            frames += [(row, n, ids[n], int(position), latent, fires[latent]) for latent in fires]
    schema = {
        "row": pl.Int64, "protein": pl.UInt32, "sequence_id": pl.String, "position": pl.Int32,
        "latent": pl.UInt32, "activation": pl.Float32,
    }  # fmt: skip
    by_row = pl.DataFrame(frames, schema=schema, orient="row").sort("row", "latent")
    activations = write_activations(tmp_path / "activations", by_row, ids)
    return fasta, annotations, activations


def clusters_of(ids):
    """Pairs of neighbours are relatives."""
    return {sequence_id: f"c{number // 2}" for number, sequence_id in enumerate(ids)}


def write_activations(folder: Path, by_row: pl.DataFrame, ids: list[str]) -> Path:
    def build(work: Path) -> dict:
        (work / "by_row").mkdir()
        half = by_row["row"][len(by_row) // 2]
        by_row.filter(pl.col("row") <= half).write_parquet(work / "by_row" / "00000.parquet")
        by_row.filter(pl.col("row") > half).write_parquet(work / "by_row" / "00001.parquet")
        strongest = by_row.sort("activation", descending=True, maintain_order=True)
        pairs = strongest.unique(["latent", "protein"], keep="first", maintain_order=True)
        pairs.sort("latent", maintain_order=True).select(
            "latent", "protein", "sequence_id", "activation", "position"
        ).write_parquet(work / "proteins.parquet")
        firing = [
            table.group_by("latent").len(name)
            for table, name in ((by_row, "firing_rows"), (pairs, "firing_proteins"))
        ]
        latents = pl.DataFrame({"latent": np.arange(LATENTS, dtype=np.uint32)})
        for table in firing:
            latents = latents.join(table, on="latent", how="left", maintain_order="left")
        latents.fill_null(0).write_parquet(work / "latents.parquet")
        pl.DataFrame(
            {"protein": np.arange(len(ids), dtype=np.uint32), "sequence_id": ids}
        ).write_parquet(work / "sequences.parquet")
        return {}

    determinants = {"config": {"k": 3}}
    return produce_folder(
        folder, kind="feature_activations", determinants=determinants, build=build
    ).path


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    path = tmp_path_factory.mktemp("clusters") / "clusters.parquet"
    known = clusters_of([f"tr|P{n}|X" for n in range(PROTEINS)])
    pl.DataFrame({"sequence_id": list(known), "cluster_id": list(known.values())}).write_parquet(
        path
    )
    return path


@pytest.fixture(scope="module")
def scored(run, clusters, tmp_path_factory):
    _, annotations, activations = run
    output = tmp_path_factory.mktemp("scored") / "concepts"
    return score_concepts(activations, annotations, output, similarity_clusters=clusters)


def of(table, level, concept):
    return table.filter((pl.col("level") == level) & (pl.col("concept") == concept)).row(
        0, named=True
    )


def test_planted_latents_are_chosen_on_validation_and_measured_on_test(scored):
    product = scored
    concepts = pl.read_parquet(product.path / "concepts.parquet")
    features = pl.read_parquet(product.path / "feature_concepts.parquet")
    assert dict(concepts.schema) == CONCEPT_SCHEMA
    assert dict(features.schema) == FEATURE_CONCEPT_SCHEMA
    assert sorted(path.name for path in product.path.iterdir()) == [
        "comparison.png", "concepts.parquet", "feature_concepts.parquet", "manifest.json",
    ]  # fmt: skip

    kinase = of(concepts, "protein", "kinase a")
    assert (kinase["latent"], kinase["test_f1"], kinase["auroc"]) == (0, 1.0, 1.0)
    ids = [f"tr|P{n}|X" for n in range(PROTEINS)]
    splits = splits_of(ids, clusters_of(ids))
    assert kinase["positives"] == len(KINASE)
    for part in ("validation", "test"):
        bearers = [n for n in KINASE if splits[n] == part]
        assert kinase[f"{part}_positives"] == len(bearers)
        assert kinase[f"{part}_clusters"] == len({n // 2 for n in bearers})
    assert not of(concepts, "protein", "thing3")["eligible"]
    assert of(concepts, "protein", "thing3")["test_f1"] is None

    # Latent 1 calls 6 encoded residues of a protein, 5 of them in the stretch, which it finds.
    stretch = of(concepts, "residue", "transmembrane-like stretch")
    assert stretch["latent"] == 1
    assert stretch["test_f1"] == pytest.approx(2 * (5 / 6) / (5 / 6 + 1))
    assert stretch["test_positives"] == sum(splits[n] == "test" for n in range(0, PROTEINS, 4))
    row = of(features.filter(pl.col("latent") == 1), "residue", "transmembrane-like stretch")
    assert row["threshold"] == 3.0
    assert row["chosen"]
    assert (row["test_precision"], row["test_recall"]) == (pytest.approx(5 / 6), 1.0)
    # The stretch is longer than the residues on which the latent fires.
    assert 0.7 < row["auroc"] < 0.8

    # A latent that never fires, or only in training, is no row.
    assert set(features["latent"]) == {0, 1, 2, 5}
    assert features.filter("chosen").select("level", "concept").n_unique() == int(
        concepts["latent"].is_not_null().sum()
    )
    # Calling everything is what latent 5 does.
    everything = of(features.filter(pl.col("latent") == 5), "protein", "kinase a")
    assert everything["test_recall"] == 1.0
    assert everything["test_f1"] == pytest.approx(kinase["trivial_f1"], abs=0.1)
    assert kinase["trivial_f1"] == pytest.approx(
        2 * kinase["test_positives"] / (kinase["test_positives"] + (splits == "test").sum())
    )
    pooled = product.manifest.summary["pooled"]
    assert [level["level"] for level in pooled] == ["protein", "residue"]
    assert pooled[0]["pooled_f1"] == 1.0


def test_blocks_of_latents_change_nothing(run, clusters, scored, tmp_path, monkeypatch):
    _, annotations, activations = run
    monkeypatch.setattr("esm_sae.analysis.concepts.units._ENTRIES_AT_ONCE", 700)
    parts = score_concepts(activations, annotations, tmp_path / "b", similarity_clusters=clusters)
    assert scored.manifest.files == parts.manifest.files
    again = score_concepts(activations, annotations, scored.path, similarity_clusters=clusters)
    assert again.unchanged


def test_baselines_are_drawn_beside_the_latents(run, clusters, scored, tmp_path):
    _, annotations, activations = run

    def build(folder: Path) -> dict:
        row = dict.fromkeys(BASELINE_SCHEMA) | {
            "method": "raw", "level": "protein", "candidates": 4, "concepts": 1, "pooled_f1": 0.5,
        }  # fmt: skip
        pl.DataFrame([row], schema=BASELINE_SCHEMA).write_parquet(folder / BASELINES)
        return {}

    folder = produce_folder(tmp_path / "c", kind="concept_baselines", determinants={}, build=build)
    beside = score_concepts(
        activations, annotations, tmp_path / "b",
        similarity_clusters=clusters, baselines=folder.path,
    )  # fmt: skip
    differ = [
        name
        for name in scored.manifest.files
        if scored.manifest.files[name] != beside.manifest.files[name]
    ]
    assert differ == ["comparison.png"]


def test_a_run_of_proteins_has_one_level_and_no_eligible_concept_is_no_error(run, tmp_path):
    _, annotations, activations = run
    ids = pl.read_parquet(activations / "sequences.parquet")["sequence_id"].to_list()
    pairs = pl.read_parquet(activations / "proteins.parquet")
    by_row = pairs.select(
        pl.col("protein").cast(pl.Int64).alias("row"), "protein", "sequence_id",
        pl.lit(None, dtype=pl.Int32).alias("position"), "latent", "activation",
    ).sort("row", "latent")  # fmt: skip
    folder = write_activations(tmp_path / "means", by_row, ids)
    product = score_concepts(folder, annotations, tmp_path / "out")
    concepts = pl.read_parquet(product.path / "concepts.parquet")
    assert set(concepts["level"]) == {"protein"}
    assert of(concepts, "protein", "kinase a")["test_f1"] == 1.0
    none = score_concepts(folder, annotations, tmp_path / "none", min_positives=10_000)
    assert none.manifest.summary["pooled"][0]["pooled_f1"] is None
    assert pl.read_parquet(none.path / "feature_concepts.parquet").is_empty()
    assert not pl.read_parquet(none.path / "concepts.parquet")["eligible"].any()


def test_bad_input_is_told(run, tmp_path):
    fasta, annotations, activations = run
    with pytest.raises(InputError, match="min_positives is 0"):
        score_concepts(activations, annotations, tmp_path / "out", min_positives=0)
    with pytest.raises(InputError, match="holds no activations"):
        score_concepts(tmp_path, annotations, tmp_path / "out")
    universe_path(fasta).write_text("x")
    with pytest.raises(InputError, match="not a parquet table"):
        score_concepts(activations, fasta, tmp_path / "out")
    other = tmp_path / "y.fasta"
    other.write_text(">Q1 Kinase\nAAAA\n")
    foreign = annotate_concepts(other, tmp_path / "y.parquet").path
    with pytest.raises(InputError, match="says nothing of any of these proteins"):
        score_concepts(activations, foreign, tmp_path / "out")
    universe_path(foreign).unlink()
    with pytest.raises(InputError, match=r"y\.universe\.parquet"):
        score_concepts(activations, foreign, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def write_annotations(folder: Path, rows: list[tuple], universe: list[tuple[str, str]]) -> Path:
    path = folder / "annotations.parquet"
    pl.DataFrame(rows, schema=ANNOTATION_SCHEMA, orient="row").write_parquet(path)
    schema = {"source": pl.String, "sequence_id": pl.String}
    pl.DataFrame(universe, schema=schema, orient="row").write_parquet(universe_path(path))
    return path


def test_domains_are_cut_to_encoded_residues(tmp_path):
    path = write_annotations(
        tmp_path,
        [
            ("s", "whole", "a", None, None),
            ("s", "domain", "a", 2, 5),
            ("s", "domain", "a", 4, 9),
            ("s", "domain", "b", 1, 1),
            ("s", "domain", "elsewhere", 1, 9),
            ("s", "site", "b", 7, 7),
        ],
        [("s", "a"), ("s", "b")],
    )
    ids = pl.Series("sequence_id", ["a", "b", "c"])
    proteins, positions = np.array([0, 0, 0, 1, 1, 2]), np.array([2, 5, 9, 2, 7, 1])
    found = residue_labels(path, ids, proteins, positions)
    assert found.names.rows() == [("s", "domain"), ("s", "site")]
    everything = np.ones(6, dtype=bool)
    unit, concept, instance = found.labels.entries(everything)
    # Residue 5 of a lies in both of its domains; that of b was not encoded.
    assert list(zip(unit.tolist(), concept.tolist(), strict=True)) == [
        (0, 0), (1, 0), (1, 0), (2, 0), (4, 1),
    ]  # fmt: skip
    assert len(set(instance.tolist())) == 3
    assert found.labels.positives(everything).tolist() == [2, 1]
    assert found.labels.bearers(everything).tolist() == [3, 1]
    assert found.labels.universe[:, 0].tolist() == [True] * 5 + [False]
    site = only(found, np.array([False, True]))
    assert site.names.rows() == [("s", "site")]
    assert site.labels.entries(everything)[0].tolist() == [4]


def test_eligible_is_what_has_enough_positives_in_enough_clusters(tmp_path):
    ids = [f"p{number}" for number in range(40)]
    rows = [("name", "family", p, None, None) for p in ids[:20]]
    rows += [("word", "narrow", p, None, None) for p in ids[:20]]
    rows += [("word", "broad", p, None, None) for p in ids]
    rows += [("word", "rare", p, None, None) for p in ids[::10]]
    path = write_annotations(tmp_path, rows, [(s, p) for s in ("name", "word") for p in ids])
    labels = protein_labels(path, pl.Series(ids))
    # Two clusters among the first 20 proteins, ten among the others.
    clusters = np.array([f"{n // 10}" if n < 20 else f"{n // 2}" for n in range(40)], dtype=object)
    validation = np.arange(40) % 2 == 0
    counts = concept_counts(labels, "protein", clusters, validation, ~validation, 5)
    assert counts.select("source", "concept", "validation_clusters", "eligible").rows() == [
        ("name", "family", 2, True),
        ("word", "broad", 12, True),
        ("word", "narrow", 2, False),
        ("word", "rare", 4, False),
    ]
    assert pooled_concepts(counts).tolist() == [True, True, False, False]
    motif = counts.with_columns(pl.lit("sequence").alias("source"))
    assert not pooled_concepts(motif).any()
    assert pooled_concepts(motif.with_columns(pl.lit("residue").alias("level")))[0]


def test_a_protein_without_a_known_cluster_is_its_own():
    assert cluster_ids_of(["a", "b"], {"a": "c"}).tolist() == ["c", "b"]
    assert cluster_ids_of([], None).tolist() == []
