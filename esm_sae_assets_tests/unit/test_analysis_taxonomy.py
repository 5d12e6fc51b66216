import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis import feature_taxonomy
from esm_sae.analysis.taxonomy.heatmap import shown_cells
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import TAXONOMY_SCHEMA

SIZES = {"Homo sapiens": 6, "Mus musculus (10090)": 5, "Lonely": 1}


def _dense_per_protein(sae: Any, matrices: list[np.ndarray]) -> np.ndarray:
    """Encode every residue, then take the maximum: never the other way round."""
    return np.stack([sae.dense(matrix).max(axis=0) for matrix in matrices])


def wilson(hits: int, size: int) -> tuple[float, float]:
    """Return the shares p with |hits / size - p| = z sqrt(p (1 - p) / size)."""
    z, share = 1.959963984540054, hits / size
    roots = np.roots([1 + z**2 / size, -(2 * share + z**2 / size), share**2]).real
    return float(roots.min()), float(roots.max())


@pytest.mark.parametrize("pooling", ["mean", "residue", "unknown"])
def test_table_equals_counting_by_hand(
    tmp_path: Path, pooling: str, fake_sae: Any, write_clusters: Any
) -> None:
    path, clusters, matrices = write_clusters(tmp_path, SIZES, residues=pooling == "residue")
    sae = fake_sae(pooling=pooling)
    product = feature_taxonomy(sae, path, tmp_path / "out", batch_rows=7)
    dense = (
        _dense_per_protein(sae, matrices)
        if pooling == "residue"
        else sae.dense(clusters.embeddings)
    )
    taxa = np.array(clusters.taxa)
    table = pl.read_parquet(product.path / "feature_taxonomy.parquet")
    assert table.select("latent", "taxon").rows() == sorted(table.select("latent", "taxon").rows())
    found = {(row["latent"], row["taxon"]): row for row in table.iter_rows(named=True)}
    for taxon in SIZES:
        inside = dense[taxa == taxon] > 0
        outside = dense[taxa != taxon] > 0
        slots = Counter(latent for protein in inside for latent in np.flatnonzero(protein))
        for latent in range(24):
            firing = int(inside[:, latent].sum())
            if not firing:
                assert (latent, taxon) not in found
                continue
            row = found[latent, taxon]
            values = dense[taxa == taxon][:, latent]
            other = int(outside[:, latent].sum())
            ratio = (firing + 0.5) / (len(inside) + 1) / ((other + 0.5) / (len(outside) + 1))
            assert row["proteins"] == SIZES[taxon]
            assert row["firing_proteins"] == firing
            assert row["firing_frequency"] == pytest.approx(firing / SIZES[taxon])
            low, high = wilson(firing, SIZES[taxon])
            assert row["frequency_low"] == pytest.approx(low, abs=1e-12)
            assert row["frequency_high"] == pytest.approx(high)
            assert row["mean_activation"] == pytest.approx(values[values > 0].mean(), rel=1e-5)
            assert row["normalized_frequency"] == pytest.approx(firing / slots.total())
            assert row["other_frequency"] == pytest.approx(other / len(outside))
            assert row["log2_ratio"] == pytest.approx(math.log2(ratio))
    mapping = json.loads((product.path / "feature_taxonomy_mapping.json").read_text())
    assert set(mapping) == {str(latent) for latent in np.flatnonzero((dense > 0).any(axis=0))}
    for latent, entry in mapping.items():
        rivals = [row for key, row in found.items() if key[0] == int(latent)]
        best = max(row["normalized_frequency"] for row in rivals)
        assert entry["normalized_frequency"] == best
        first = min(row["taxon"] for row in rivals if row["normalized_frequency"] == best)
        assert entry["taxon"] == first
    assert table.schema == TAXONOMY_SCHEMA
    # 12 proteins cannot show anything.
    assert product.manifest.summary["tested_pairs"] <= len(table)
    assert product.manifest.summary["smallest_taxon"] == 1
    assert (product.path / "heatmap.png").read_bytes().startswith(b"\x89PNG")


def test_a_residue_sae_never_sees_a_mean(
    tmp_path: Path, fake_sae: Any, write_clusters: Any
) -> None:
    path, clusters, _ = write_clusters(tmp_path, SIZES, residues=True)
    seen = []

    class Recorder(fake_sae):
        def encode_sparse(self, x: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
            seen.append(np.array(x))
            return super().encode_sparse(x)

    feature_taxonomy(Recorder(pooling="residue"), path, tmp_path / "out")
    rows = {row.tobytes() for row in np.concatenate(seen)}
    assert not rows & {mean.tobytes() for mean in clusters.embeddings}
    assert len(rows) == sum(map(len, clusters.sequences))


def test_missing_residue_rows_name_the_remedy(
    tmp_path: Path, fake_sae: Any, write_clusters: Any
) -> None:
    path, _, _ = write_clusters(tmp_path, SIZES)
    with pytest.raises(InputError, match="run embed_clusters with residue pooling"):
        feature_taxonomy(fake_sae(pooling="residue"), path, tmp_path / "out")


@pytest.mark.parametrize("damage", ["rows", "headers"])
def test_residue_rows_of_another_json_are_refused(
    tmp_path: Path, damage: str, fake_sae: Any, write_clusters: Any
) -> None:
    path, _, matrices = write_clusters(tmp_path, SIZES, residues=True)
    if damage == "rows":
        np.save(tmp_path / "embedded_clusters.residues.npy", matrices[0])
    else:
        table = tmp_path / "embedded_clusters.residues.parquet"
        pl.read_parquet(table).with_columns(header=pl.lit("another")).write_parquet(table)
    with pytest.raises(InputError, match="run embed_clusters again"):
        feature_taxonomy(fake_sae(pooling="residue"), path, tmp_path / "out")


def test_one_taxon_alone_has_nothing_to_be_compared_with(
    tmp_path: Path, fake_sae: Any, write_clusters: Any
) -> None:
    path, _, _ = write_clusters(tmp_path, {"Only": 1})
    product = feature_taxonomy(fake_sae(), path, tmp_path / "out")
    table = pl.read_parquet(product.path / "feature_taxonomy.parquet")
    assert table["log2_ratio"].null_count() == table["other_frequency"].null_count() == len(table)
    assert table["firing_frequency"].to_list() == [1.0] * len(table)
    assert table["specificity"].null_count() == table["p_value"].null_count() == len(table)
    assert not table["taxonomic"].any()


def test_an_sae_on_which_nothing_fires_still_gives_its_files(
    tmp_path: Path, fake_sae: Any, write_clusters: Any
) -> None:
    path, _, _ = write_clusters(tmp_path, SIZES)
    sae = fake_sae()
    sae.kernel[:] = 0
    product = feature_taxonomy(sae, path, tmp_path / "out")
    assert product.manifest.summary["firing_latents"] == 0
    assert json.loads((product.path / "feature_taxonomy_mapping.json").read_text()) == {}


def test_same_inputs_give_the_same_bytes(
    tmp_path: Path, fake_sae: Any, write_clusters: Any
) -> None:
    path, _, _ = write_clusters(tmp_path, SIZES)
    one = feature_taxonomy(fake_sae(), path, tmp_path / "one")
    other = feature_taxonomy(fake_sae(), path, tmp_path / "other")
    assert one.manifest.files == other.manifest.files
    assert feature_taxonomy(fake_sae(), path, tmp_path / "one").unchanged


def similarity_table(folder: Path, clusters: dict[str, str | None]) -> Path:
    path = folder / "similarity.parquet"
    rows = {"sequence_id": list(clusters), "cluster_id": list(clusters.values())}
    pl.DataFrame(rows).write_parquet(path)
    return path


def signal_of_one_taxon(fake_sae: Any, folder: Path, write_clusters: Any) -> tuple[Any, Path]:
    """An SAE of which latent 0 fires on the last 30 of 120 proteins, those of one taxon."""
    path, clusters, _ = write_clusters(folder, {"A": 50, "B": 40, "C": 30})
    sae = fake_sae()
    told = np.array(clusters.taxa) == "C"
    solved = np.linalg.lstsq(clusters.embeddings, np.where(told, 9.0, -9.0), rcond=None)[0]
    # Random vectors of width 8 tell the taxon in part only.
    sae.kernel[:] = 0
    sae.kernel[:, 0] = solved
    return sae, path


def test_families_are_counted_once(tmp_path: Path, fake_sae: Any, write_clusters: Any) -> None:
    sae, path = signal_of_one_taxon(fake_sae, tmp_path, write_clusters)
    known = similarity_table(
        tmp_path,
        {f"tr|P{number:05d}|P_TEST": f"{number >= 90} {number % 6}" for number in range(120)},
    )
    options = {"permutations": 20, "seed": 5}
    alone = feature_taxonomy(sae, path, tmp_path / "alone", **options).manifest.summary
    families = feature_taxonomy(
        sae, path, tmp_path / "families", similarity_clusters=known, **options
    ).manifest.summary
    assert alone["proteins_without_similarity_cluster"] == alone["drawn_proteins"] == 120
    assert alone["similarity_clusters"] == 120
    assert families["proteins_without_similarity_cluster"] == 0
    assert families["similarity_clusters"] == 12
    assert families["drawn_proteins"] == 18
    table = pl.read_parquet(tmp_path / "families" / "feature_taxonomy.parquet")
    assert set(table["clusters"]) == {6}
    assert (table["firing_clusters"] <= 6).all()
    assert (table["firing_proteins"] <= table["proteins"]).all()
    assert alone["permutations"] == families["permutations"] == 20


def test_what_decides_the_tests_decides_whether_they_are_done_again(
    tmp_path: Path, fake_sae: Any, write_clusters: Any
) -> None:
    path, _, _ = write_clusters(tmp_path, SIZES)
    known = similarity_table(tmp_path, {"tr|P00001|P_TEST": "x", "tr|P00002|P_TEST": "x"})

    def unchanged(**options: Any) -> bool:
        return feature_taxonomy(fake_sae(), path, tmp_path / "out", **options).unchanged

    assert not unchanged(permutations=0)
    assert unchanged(permutations=0)
    assert not unchanged(permutations=3)
    assert not unchanged(permutations=3, seed=1)
    assert not unchanged(permutations=3, seed=1, similarity_clusters=known)
    assert unchanged(permutations=3, seed=1, similarity_clusters=known)
    # A cluster that is null is none that proteins could share.
    similarity_table(tmp_path, {"tr|P00001|P_TEST": "x", "tr|P00002|P_TEST": None})
    assert not unchanged(permutations=3, seed=1, similarity_clusters=known)


def test_options_that_cannot_be_are_refused(
    tmp_path: Path, fake_sae: Any, write_clusters: Any
) -> None:
    path, _, _ = write_clusters(tmp_path, SIZES)
    with pytest.raises(InputError, match="permutations: -1"):
        feature_taxonomy(fake_sae(), path, tmp_path / "out", permutations=-1)
    with pytest.raises(InputError, match="not a parquet table with sequence_id"):
        feature_taxonomy(fake_sae(), path, tmp_path / "out", similarity_clusters=path)


def test_heatmap_shows_taxonomic_latents_first() -> None:
    """A latent that differs little between taxa is shown where it was called."""
    generator = np.random.default_rng(0)
    rows = [
        (latent, taxon, float(generator.random()), False, None)
        for latent in range(60)
        for taxon in "AB"
    ]
    rows += [(60, "A", 0.02, True, 1e-6), (60, "B", 0.01, False, 0.9)]
    names = ["latent", "taxon", "firing_frequency", "taxonomic", "p_value"]
    table = pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)
    frequencies, called, latents = shown_cells(table, ["B", "A"])
    assert latents[0] == 60
    assert len(latents) == 40
    assert called.sum() == 1
    assert called[1, 0]
    assert frequencies[:, 0].tolist() == [0.01, 0.02]
    spread = frequencies[:, 1:].std(axis=0)
    assert (np.diff(spread) <= 0).all()
