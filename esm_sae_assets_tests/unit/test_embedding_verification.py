import json
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from esm_sae.embedding import EmbeddingOptions, embed_shard, load_encoder
from esm_sae.embedding.verification import verify_shard, verify_shards
from esm_sae.errors import InputError
from esm_sae.formats.shards import means_path, publish_manifest

runpy.run_path(str(Path(__file__).with_name("toy_encoder.py")))
COUNT = 3


@pytest.fixture
def embed(tmp_path, write_fasta, random_proteins):
    """Return a function that embeds proteins into three shards and returns these."""
    fasta = write_fasta(random_proteins(23))

    def run(**options):
        return [
            embed_shard(
                fasta,
                tmp_path / "shards",
                shard=shard,
                count=COUNT,
                encoder=load_encoder("toy", device="cpu"),
                options=EmbeddingOptions(**options),
            ).product
            for shard in range(COUNT)
        ]

    return run


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_a_sound_shard_tells_its_figures(embed, pooling, dtype):
    shard = embed(pooling=pooling, dtype=dtype)[1]
    found = verify_shard(shard)
    matrix = np.load(shard.path)
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
    assert (found.rows, found.width) == matrix.shape
    assert (found.index_rows, found.dtype) == (len(matrix), dtype)
    figures = (found.norm_min, found.norm_median, found.norm_max)
    assert figures == pytest.approx((norms.min(), np.median(norms), norms.max()), rel=1e-3)
    summary = shard.manifest.summary
    assert figures == tuple(summary[name] for name in ("norm_min", "norm_median", "norm_max"))


def scaled(row, factor):
    """Return a change of a matrix that multiplies one of its rows."""

    def change(rows):
        rows[row] *= np.float32(factor)
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scaled(2, np.nan), "rows are not finite: UniRef50_P00002"),
        (scaled(3, 0), "rows are zero: UniRef50_P00003"),
        (scaled(1, 1e6), "1,000 times off the median of .*: UniRef50_P00001"),
        (lambda rows: rows[:-1], r"shape \(6, 4\), expected float32 of shape \(7, 4\)"),
        (lambda rows: rows.astype(np.float16), "holds float16"),
    ],
    ids=["not finite", "zero", "norm", "a row less", "another type"],
)
@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_a_damaged_matrix_does_not_pass(embed, pooling, change, message):
    shard = embed(pooling=pooling)[0]
    path = shard.path if pooling == "mean" else means_path(shard.path)
    np.save(path, change(np.load(path)))
    with pytest.raises(InputError, match=message) as caught:
        verify_shard(shard)
    assert path.name in str(caught.value)


def test_a_residue_that_does_not_pass_is_named(embed):
    shard = embed(pooling="residue")[0]
    rows = np.load(shard.path)
    np.save(shard.path, scaled(1, 0)(rows))
    with pytest.raises(InputError, match="rows are zero: UniRef50_P00000 at residue 2"):
        verify_shard(shard)


def test_a_table_that_names_fewer_rows_does_not_pass(embed):
    shard = embed()[0]
    table = shard.path.with_suffix(".parquet")
    pl.read_parquet(table)[1:].write_parquet(table)
    with pytest.raises(InputError, match="names 6 rows, its matrix has 7"):
        verify_shard(shard)


@pytest.mark.parametrize("pooling", ["max", "residue"])
def test_complete_shards_tell_their_figures(embed, pooling):
    shards = embed(pooling=pooling)
    found = verify_shards(publish_manifest(shards[0].path.parent), count=COUNT)
    rows = sum(len(np.load(shard.path)) for shard in shards)
    assert (found.shards, found.proteins) == (COUNT, 23)
    assert found.rows == found.index_rows == rows
    assert found.rows_are == f"toy (a toy), layer 1, {pooling} rows"


def test_shards_that_do_not_fit_do_not_pass(embed):
    shards = embed(pooling="residue")
    manifest = publish_manifest(shards[0].path.parent)
    with pytest.raises(InputError, match="has 3 shards, expected 4"):
        verify_shards(manifest, count=4)
    means = means_path(shards[2].path)
    rows = np.load(means)
    np.save(means, rows[1:])
    with pytest.raises(InputError, match=f"{means.name}: is gone or not of the 256 bytes"):
        verify_shards(manifest, count=COUNT)
    np.save(means, rows)
    _shorten(means.with_suffix(".parquet"), shards[2].manifest_path)
    with pytest.raises(InputError, match="has 22 proteins, expected 23"):
        verify_shards(publish_manifest(manifest.path), count=COUNT)
    _shorten(shards[1].path.with_suffix(".parquet"), shards[1].manifest_path)
    with pytest.raises(InputError, match="rows in their tables, expected"):
        verify_shards(publish_manifest(manifest.path), count=COUNT)


def _shorten(table, manifest_path):
    """Take a row off a table, with a manifest that says that it should be so."""
    pl.read_parquet(table)[1:].write_parquet(table)
    manifest = json.loads(manifest_path.read_text())
    manifest["files"][table.name]["bytes"] = table.stat().st_size
    manifest_path.write_text(json.dumps(manifest))
