import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis import feature_taxonomy
from esm_sae.errors import InputError

SIZES = {"Homo sapiens": 6, "Mus musculus (10090)": 5, "Lonely": 1}


def _dense_per_protein(sae: Any, matrices: list[np.ndarray]) -> np.ndarray:
    """Encode every residue, then take the maximum: never the other way round."""
    return np.stack([sae.dense(matrix).max(axis=0) for matrix in matrices])


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
