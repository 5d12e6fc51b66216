import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis import activations as activations_module
from esm_sae.analysis import compute_activations, describe_proteins
from esm_sae.analysis.candidates import chance_of_firing
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import (
    CANDIDATE_SCHEMA,
    PROTEIN_LATENT_SCHEMA,
    RESIDUE_LATENT_SCHEMA,
)
from esm_sae.formats.manifest import identity_of, manifest_beside, produce_files
from own_proteins import (
    LATENTS,
    LetterRows,
    LetterSAE,
    write_activations,
    write_annotations,
    write_concepts,
    write_summary,
)

PROTEINS = [
    ("tr|P00001|A_X Kinase OS=Taxon", "ACDWY"),
    ("P2", "WWAAA"),
    ("P3 Zinc finger", "CCCCC"),
    ("P4 Kinase", "WAAAA"),
]
REFERENCE = [("R1", "ACDEFGHIKL"), ("R2", "AAAAAAAAWA")]


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Path]:
    return {
        "activations": write_activations(tmp_path / "own", PROTEINS),
        "reference": write_activations(tmp_path / "reference", REFERENCE),
        "summary": write_summary(tmp_path / "s.parquet", {0: ("alanine", 0.9), 5: ("big", 0.4)}),
    }


def _read(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def test_latents_of_proteins_are_compared_with_the_reference(
    run: dict[str, Path], tmp_path: Path
) -> None:
    product = describe_proteins(**run, output_folder=tmp_path / "out")
    table = _read(product.path, "protein_latents")
    assert table.schema == pl.Schema(PROTEIN_LATENT_SCHEMA)
    index = LetterRows(PROTEINS)
    known = LetterRows(REFERENCE)
    dense, before = (_dense(rows.values) for rows in (index, known))
    ids = index.table["sequence_id"].to_numpy()
    expected = {}
    for protein, latent in itertools.product(range(4), range(LATENTS)):
        values = dense[ids == ids[5 * protein], latent]
        if values.max() > 0:
            expected[protein, latent] = (values.max(), values.argmax() + 1, (values > 0).sum())
    found = {
        (row["protein"], row["latent"]): (row["activation"], row["position"], row["firing_rows"])
        for row in table.iter_rows(named=True)
    }
    assert found == expected
    for row in table.iter_rows(named=True):
        elsewhere, here = before[:, row["latent"]], row["activation"]
        highest = elsewhere.max()
        assert row["share_of_max"] == pytest.approx(here / highest)
        assert row["density"] == pytest.approx((elsewhere > 0).mean())
        least = min(math.floor(20 * here / highest), 19) / 20 * highest
        share = 0.0 if here > highest else (elsewhere >= least).mean()
        assert row["share_as_strong"] == pytest.approx(share)
        surprise = -math.log2(1 - (1 - max(share, 0.5 / len(before))) ** 5)
        assert row["prominence"] == pytest.approx(here * surprise)
    order = [(row["protein"], -row["prominence"]) for row in table.iter_rows(named=True)]
    assert order == sorted(order)
    labels = table.filter(pl.col("latent") == 5)["label"].unique().to_list()
    assert labels == ["big"]
    counts = product.manifest.summary
    assert (counts["proteins"], counts["firing_latents_with_label_score"]) == (4, 2)


def _dense(values: np.ndarray) -> np.ndarray:
    dense = np.zeros((len(values), LATENTS), dtype=np.float32)
    activations, latents = LetterSAE().encode_sparse(values)
    np.put_along_axis(dense, latents.astype(int), activations, axis=1)
    return dense


def test_residues_bear_their_letters(
    run: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _read(describe_proteins(**run, output_folder=tmp_path / "one").path, "residue_latents")
    assert table.schema == pl.Schema(RESIDUE_LATENT_SCHEMA)
    sequences = {parts[0].split()[0]: parts[1] for parts in PROTEINS}
    for row in table.iter_rows(named=True):
        assert row["residue"] == sequences[row["sequence_id"]][row["position"] - 1]
    fired = table.filter(pl.col("latent") == 5)
    assert set(fired["residue"]) == {"W", "Y"}
    # The same tables from activations in many files.
    monkeypatch.setattr(activations_module, "_PART_ROWS", 4)
    parts = write_activations(tmp_path / "parts", PROTEINS, batch_rows=4)
    assert len(list((parts / "by_row").iterdir())) > 1
    other = describe_proteins(**run | {"activations": parts}, output_folder=tmp_path / "other")
    assert _read(other.path, "residue_latents").equals(table)
    assert _read(other.path, "protein_latents").equals(_read(tmp_path / "one", "protein_latents"))
    assert {path.name for path in other.path.iterdir()} == {
        "protein_latents.parquet",
        "residue_latents.parquet",
        "manifest.json",
    }


def test_without_an_analysis_proteins_are_their_own_reference(tmp_path: Path) -> None:
    own = write_activations(tmp_path / "own", PROTEINS)
    table = _read(describe_proteins(own, tmp_path / "out").path, "protein_latents")
    assert table["share_of_max"].max() == 1
    assert table["label"].null_count() == len(table)


def test_rows_that_are_proteins_have_no_residues(tmp_path: Path) -> None:
    own = write_activations(tmp_path / "own", PROTEINS, pooling="mean")
    product = describe_proteins(own, tmp_path / "out")
    assert _read(product.path, "protein_latents")["position"].null_count() == 6
    assert not (product.path / "residue_latents.parquet").exists()


def test_candidates_fire_and_lack_the_annotation(run: dict[str, Path], tmp_path: Path) -> None:
    concepts = write_concepts(
        tmp_path / "concepts",
        [
            {"concept": "kinase"},
            {"concept": "zinc finger", "latent": 1, "threshold": 1.5},
            {"concept": "finger", "source": "word", "latent": 1, "threshold": 0.5},
            {"concept": "weak", "test_f1": 0.4},
            {"concept": "common", "trivial_f1": 0.7},
            {"concept": "few", "eligible": False},
            {"concept": "sequon", "source": "sequence"},
            {"concept": "Domain", "source": "uniprot", "level": "residue"},
            {"concept": "silent", "latent": None, "threshold": None, "test_f1": 0.0},
        ],
    )
    annotations = write_annotations(
        tmp_path / "a.parquet",
        [("name", "kinase", "tr|P00001|A_X"), ("name", "kinase", "P4"), ("name", "other", "P2")],
    )
    product = describe_proteins(
        **run, output_folder=tmp_path / "out", concepts=concepts, annotations=annotations
    )
    table = _read(product.path, "candidates")
    assert table.schema == pl.Schema(CANDIDATE_SCHEMA)
    found = {(row["sequence_id"], row["concept"]) for row in table.iter_rows(named=True)}
    # Of the word "finger" P3 has no annotation, for few proteins bear it, but a name that has it.
    assert found == {("P2", "kinase"), ("tr|P00001|A_X", "finger")}
    [first, second] = table.sort("concept", descending=True).to_dicts()
    assert (first["name"], first["firing_rows"], first["position"]) == (None, 2, 1)
    assert second["name"] == "Kinase"
    assert first["test_precision"] == pytest.approx(0.7)
    counts = product.manifest.summary
    assert (counts["concepts_sought"], counts["candidates"]) == (3, 2)


def test_only_proteins_that_were_looked_up_lack_a_concept_of_uniprot(
    run: dict[str, Path], tmp_path: Path
) -> None:
    concepts = write_concepts(
        tmp_path / "concepts",
        [{"concept": "keyword: Kinase", "source": "uniprot"}, {"concept": "kinase"}],
    )
    annotations = write_annotations(
        tmp_path / "a.parquet",
        [("uniprot", "keyword: Kinase", "P4"), ("name", "kinase", "P4")],
        in_uniprot=["P4", "P2"],
    )
    given = run | {"concepts": concepts, "annotations": annotations}
    product = describe_proteins(**given, output_folder=tmp_path / "out")
    table = _read(product.path, "candidates")
    found = {(row["source"], row["sequence_id"]) for row in table.iter_rows(named=True)}
    # The name of the first is read from its header, so that it was looked up.
    assert found == {("uniprot", "P2"), ("name", "tr|P00001|A_X"), ("name", "P2")}
    counts = product.manifest.summary
    assert (counts["not_looked_up"], counts["proteins_not_looked_up"]) == (1, 1)
    # The universe decides: another makes another output.
    write_annotations(tmp_path / "b.parquet", [])
    (tmp_path / "b.universe.parquet").replace(tmp_path / "a.universe.parquet")
    other = describe_proteins(**given, output_folder=tmp_path / "out")
    assert other.manifest.summary["not_looked_up"] == 2


def test_rows_of_another_pooling_are_refused(run: dict[str, Path], tmp_path: Path) -> None:
    means = write_activations(tmp_path / "means", REFERENCE, pooling="mean")
    with pytest.raises(InputError, match=r"differ in pooling \(mean and residue\)"):
        describe_proteins(**run | {"reference": means}, output_folder=tmp_path / "out")
    own = write_activations(tmp_path / "own_means", PROTEINS, pooling="mean")
    with pytest.raises(InputError, match=r"differ in pooling \(residue and mean\)"):
        describe_proteins(**run | {"activations": own}, output_folder=tmp_path / "out")


def test_thresholds_of_drawn_residues_are_not_passed_by_chance(
    run: dict[str, Path], tmp_path: Path
) -> None:
    concepts = write_concepts(tmp_path / "concepts", [{"concept": "kinase"}])
    annotations = write_annotations(tmp_path / "a.parquet", [])
    # Two of ten residues of each protein were encoded in the analysis.
    drawn = write_activations(tmp_path / "drawn", REFERENCE, step=5)
    product = describe_proteins(
        **run | {"reference": drawn},
        output_folder=tmp_path / "out",
        concepts=concepts,
        annotations=annotations,
    )
    chances = dict(_read(product.path, "candidates").select("sequence_id", "firing_chance").rows())
    # One W among five residues is drawn in 2 of 5 cases, one of two in 7 of 10.
    assert chances == {"tr|P00001|A_X": pytest.approx(0.7), "P2": pytest.approx(0.7)}


@pytest.mark.parametrize("rows", [1, 5, 7])
def test_chance_of_firing_counts_all_draws(rows: int) -> None:
    for firing, drawn in itertools.product(range(rows + 1), range(1, rows + 3)):
        draws = list(itertools.combinations(range(rows), min(drawn, rows)))
        hits = sum(min(draw) < firing for draw in draws)
        assert chance_of_firing(rows, firing, drawn) == pytest.approx(hits / len(draws))
        assert chance_of_firing(rows, firing, None) == (firing > 0)


def test_an_analysis_of_another_checkpoint_is_refused(run: dict[str, Path], tmp_path: Path) -> None:
    rows = LetterRows(REFERENCE)
    other = compute_activations(LetterSAE("another"), rows, tmp_path / "another").path
    with pytest.raises(InputError, match=r"another checkpoint \(another\)"):
        describe_proteins(**run | {"reference": other}, output_folder=tmp_path / "out")
    with pytest.raises(InputError, match="no folder of activations"):
        describe_proteins(**run | {"reference": tmp_path}, output_folder=tmp_path / "out")


def test_a_summary_without_labels_is_refused(run: dict[str, Path], tmp_path: Path) -> None:
    table = pl.read_parquet(run["summary"])
    for name, content in (("few", table[:3]), ("bare", table.drop("label"))):
        content.write_parquet(tmp_path / f"{name}.parquet")
        with pytest.raises(InputError, match=rf"{name}.parquet: no summary of these 6 latents"):
            describe_proteins(
                **run | {"summary": tmp_path / f"{name}.parquet"}, output_folder=tmp_path / "out"
            )


def test_a_summary_of_other_activations_is_refused(run: dict[str, Path], tmp_path: Path) -> None:
    for name, activations in (("own", run["reference"]), ("other", run["activations"])):
        summary = tmp_path / f"{name}.parquet"
        produce_files(
            [summary],
            manifest=manifest_beside(summary),
            kind="feature_summary",
            determinants={"activations": identity_of(activations)},
            build=lambda paths: shutil.copyfile(run["summary"], paths[0]) and {},
        )
        given = run | {"summary": summary, "output_folder": tmp_path / "out"}
        if name == "own":
            describe_proteins(**given)
            continue
        with pytest.raises(InputError, match=r"other.parquet: was made from other activations"):
            describe_proteins(**given)


def test_the_same_bytes_again(run: dict[str, Path], tmp_path: Path) -> None:
    one = describe_proteins(**run, output_folder=tmp_path / "one")
    assert describe_proteins(**run, output_folder=tmp_path / "one").unchanged
    other = describe_proteins(**run, output_folder=tmp_path / "other")
    assert one.manifest.files == other.manifest.files
