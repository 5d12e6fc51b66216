from pathlib import Path

import polars as pl
import pytest

from esm_sae.analysis import latents_of, scan_activations, top_proteins
from esm_sae.errors import InputError
from own_proteins import write_activations

PROTEINS = [("P1", "ACDWY"), ("P2", "WWAAA"), ("P3", "CCCCC"), ("P4", "WAAAA"), ("P5", "YW")]


@pytest.fixture(params=["mean", "residue"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_activations(tmp_path / "out", PROTEINS, pooling=request.param, batch_rows=3)


def test_top_proteins_of_every_latent(folder: Path) -> None:
    pairs = _pairs(folder)
    for latent in range(7):
        expected = pairs.filter(pl.col("latent") == latent).sort(
            "activation", "protein", descending=[True, False]
        )
        for n in (2, 10):
            found = top_proteins(folder, latent, n).collect()
            assert found["protein"].to_list() == expected["protein"].to_list()[:n]
            assert found["activation"].to_list() == expected["activation"].to_list()[:n]


def test_latents_of_every_protein(folder: Path) -> None:
    pairs = _pairs(folder)
    for number, (sequence_id, _) in enumerate(PROTEINS):
        expected = pairs.filter(pl.col("protein") == number).sort(
            "activation", "latent", descending=[True, False]
        )
        found = latents_of(folder, sequence_id).collect()
        assert found.rows() == expected.select(found.columns).rows()


def test_an_unknown_protein_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match="holds no protein P9"):
        latents_of(folder, "P9")


def _pairs(folder: Path) -> pl.DataFrame:
    """Take the strongest row of each protein and latent one by one."""
    pairs: dict[tuple[int, int], dict[str, object]] = {}
    for row in scan_activations(folder).collect().iter_rows(named=True):
        key = row["protein"], row["latent"]
        new = {name: row[name] for name in ("protein", "latent", "activation", "position")}
        kept = pairs.setdefault(key, new | {"firing_rows": 0})
        count = kept["firing_rows"] + 1
        pairs[key] = (new if new["activation"] > kept["activation"] else kept) | {
            "firing_rows": count
        }
    schema = {"protein": pl.UInt32, "activation": pl.Float32, "position": pl.Int32}
    return pl.DataFrame(list(pairs.values()), schema_overrides=schema)
