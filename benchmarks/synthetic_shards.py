"""Shards of synthetic protein embeddings: clustered directions, noise around them, and a bulk."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from esm_sae.formats.manifest import produce_files
from esm_sae.formats.shards import ROW_SCHEMA, Provenance, publish_manifest, shard_name

_DIRECTIONS, _DIFFUSE = 2_000, 0.4
_LATENT = 64
_BATCH = 8_192


def write_shards(folder: Path, rows: int, width: int, count: int = 16, seed: int = 0) -> None:
    """Write shards, or find that they are there.

    40% of the rows lie anywhere in a space of 64 dimensions with variances i ** -1, the others
    around 2,000 centres there, the i-th with a share of 1 / i of them. On all D coordinates lie
    a rotation of that space, a common offset and some noise.
    """
    random = np.random.default_rng(seed)
    scales = np.arange(1, _LATENT + 1) ** -0.5
    centres = random.normal(size=(_DIRECTIONS, _LATENT)) * scales
    axes = np.linalg.qr(random.normal(size=(width, _LATENT)))[0].T * np.sqrt(width / _LATENT)
    popularity = 1 / np.arange(1, _DIRECTIONS + 1)
    world = (centres, scales, axes, popularity / popularity.sum())
    for shard in range(count):
        first, last = shard * rows // count, (shard + 1) * rows // count
        _write_shard(folder, (shard, count), np.arange(first, last), world, seed)
    publish_manifest(folder)


def _write_shard(
    folder: Path,
    shard: tuple[int, int],
    numbers: np.ndarray,
    world: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    seed: int,
) -> None:
    matrix = folder / f"{shard_name(*shard)}.npy"
    folder.mkdir(parents=True, exist_ok=True)

    def build(temporaries: list[Path]) -> dict[str, int]:
        random = np.random.default_rng((seed, *shard))
        shape = (len(numbers), world[2].shape[1])
        with temporaries[0].open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(numbers), _BATCH):
                file.write(_rows(random, min(_BATCH, len(numbers) - start), world).data)
        _index(numbers).write_parquet(temporaries[1])
        return {"rows": len(numbers), "width": shape[1]}

    produce_files(
        [matrix, matrix.with_suffix(".parquet")],
        manifest=matrix.with_suffix(".json"),
        kind="embedding_shard",
        determinants={
            "provenance": asdict(Provenance(encoder="synthetic", layer=0, pooling="mean")),
            "shard": list(shard),
            "seed": seed,
            "rows": len(numbers),
            "width": world[2].shape[1],
        },
        build=build,
    )


def _rows(
    random: np.random.Generator,
    count: int,
    world: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
    centres, scales, axes, popularity = world
    latent = random.normal(size=(count, len(scales))) * scales
    clustered = random.random(count) >= _DIFFUSE
    around = centres[random.choice(len(centres), clustered.sum(), p=popularity)]
    latent[clustered] = around + 0.15 * latent[clustered]
    rows = latent.astype(np.float32) @ axes.astype(np.float32)
    return rows + 0.02 * random.standard_normal(rows.shape, dtype=np.float32) + np.float32(0.5)


def _index(numbers: np.ndarray) -> pl.DataFrame:
    ids = pl.Series("sequence_id", numbers).cast(pl.String)
    name = "UniRef50_A" + ids
    header = name + " Uncharacterized protein n=1 Tax=Synthetic species TaxID=32630 RepID=A"
    return (
        pl.DataFrame({"sequence_id": name, "header": header + ids})
        .with_columns(
            taxon=pl.lit("Synthetic species"),
            taxid=pl.lit(32630, pl.Int64),
            length=pl.lit(200, pl.Int32),
            position=pl.lit(None, pl.Int32),
        )
        .select(pl.col(column).cast(kind) for column, kind in ROW_SCHEMA.items())
    )
