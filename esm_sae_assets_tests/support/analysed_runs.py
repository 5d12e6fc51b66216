"""All tables of an analysis, of made-up proteins and activations, as the report reads them."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae.formats import analysis_tables as tables
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import identity_of, produce_folder

HEADER = "tr|P{0:05d}|P_TEST {1} OS={2}"
NAMES = ("Kinase", "Beta-defensin", "Zinc finger protein", "Uncharacterized protein")
TOP, BINS = 10, 20
SILENT = 2
# One white pixel.
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True)
class MadeUp:
    """What a run is to be like; the last two latents never fire."""

    latents: int = 24
    proteins: int = 60
    k: int = 4
    encoded: int = 12
    shortest: int = 30
    longest: int = 60
    taxa: tuple[str, ...] = ("Homo sapiens", "Mus musculus", "Lonely")
    header: str = HEADER
    names: tuple[str, ...] = NAMES
    config: Mapping[str, Any] | None = None
    pooling: str = "residue"
    sequences_known: bool = True
    families: bool = True
    baselines: bool = True


def write_run(folder: Path, made_up: MadeUp | None = None) -> dict[str, Path]:
    """Write every table the report can show; return their paths by the names of its parameters."""
    like = made_up or MadeUp()
    generator = np.random.default_rng(0)
    sequences = _sequences(like, generator)
    rows = _rows(like, sequences, generator)
    pairs = _pairs(rows)
    config = SAEConfig(8, like.latents, like.k, pooling=like.pooling, **(like.config or {}))

    def activations(work: Path) -> dict[str, Any]:
        (work / tables.BY_ROW).mkdir()
        rows.write_parquet(work / tables.BY_ROW / "00000.parquet")
        pairs.write_parquet(work / tables.PROTEINS)
        sequences.write_parquet(work / tables.SEQUENCES)
        fired = rows["latent"].n_unique()
        counts = {"latents": like.latents, "firing_latents": fired, "proteins": like.proteins}
        return counts | {"rows": int(rows["row"].max()) + 1, "mean_l0": float(like.k)}

    known = like.latents - SILENT
    families = {"similarity_clusters": "made up" if like.families else None}
    sae = {"sae": "made up"}
    made = _folder(folder, "feature_activations", activations, sae | {"config": asdict(config)})
    of = {"activations": identity_of(made)}
    run = {
        "activations": made,
        "taxonomy": _folder(
            folder,
            "feature_taxonomy",
            lambda work: _taxonomy(work, like, generator),
            sae | families,
        ),
        "concepts": _folder(
            folder,
            "feature_concepts",
            lambda work: _concepts(work, known, generator),
            of | families | {"baselines": "made up" if like.baselines else None},
        ),
        "clusters": _folder(
            folder, "feature_clusters", lambda work: _clusters(work, known, generator), of
        ),
        "matches": _folder(
            folder, "latent_matches", lambda work: _matches(work, like, generator), {}
        ),
        "summary": folder / "feature_summary.parquet",
    }
    _summary(like, rows, pairs, sequences, generator).write_parquet(run["summary"])
    return run


def _folder(
    parent: Path, kind: str, build: Callable[[Path], dict[str, Any]], determinants: dict[str, Any]
) -> Path:
    return produce_folder(parent / kind, kind=kind, determinants=determinants, build=build).path


def _table(schema: Mapping[str, Any], columns: Mapping[str, Any]) -> pl.DataFrame:
    """Return a table of the schema; columns that are not given are null."""
    return pl.DataFrame({**dict.fromkeys(schema), **columns}).cast(dict(schema))


def _sequences(like: MadeUp, generator: np.random.Generator) -> pl.DataFrame:
    lengths = generator.integers(like.shortest, like.longest + 1, like.proteins)
    residues = like.pooling == "residue"
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    taxa = [like.taxa[number % len(like.taxa)] for number in range(like.proteins)]
    names = [like.names[number % len(like.names)] for number in range(like.proteins)]
    headers = [
        like.header.format(number, name, taxon)
        for number, (name, taxon) in enumerate(zip(names, taxa, strict=True))
    ]
    text = ["".join(generator.choice(letters, length)) for length in lengths]
    return pl.DataFrame(
        {
            "protein": np.arange(like.proteins, dtype=np.uint32),
            "sequence_id": [parse_header(header).sequence_id for header in headers],
            "header": headers,
            "taxon": taxa,
            "taxid": None,
            "length": lengths.astype(np.int32),
            "rows": np.minimum(lengths, like.encoded).astype(np.uint32) if residues else 1,
            "sequence": text if residues and like.sequences_known else None,
        },
        schema_overrides={"taxid": pl.Int64, "sequence": pl.String, "rows": pl.UInt32},
    )


def _rows(like: MadeUp, sequences: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
    counts = sequences["rows"].to_numpy().astype(np.int64)
    protein = np.repeat(np.arange(like.proteins), counts)
    position: Any = None
    if like.pooling == "residue":
        picked = [
            np.sort(generator.choice(length, count, replace=False)) + 1
            for length, count in zip(sequences["length"], counts, strict=True)
        ]
        position = np.concatenate(picked).astype(np.int32)
    size = len(protein) * like.k
    row = np.repeat(np.arange(len(protein)), like.k)
    return (
        pl.DataFrame(
            {
                "row": row,
                "protein": protein[row].astype(np.uint32),
                "sequence_id": sequences["sequence_id"].gather(protein[row]),
                "position": None if position is None else position[row],
                "latent": generator.integers(0, like.latents - SILENT, size).astype(np.uint32),
                "activation": generator.exponential(size=size).astype(np.float32) + 1e-3,
            },
            schema_overrides={"position": pl.Int32},
        )
        .unique(["row", "latent"], keep="first", maintain_order=True)
        .sort("row", "latent")
    )


def _pairs(rows: pl.DataFrame) -> pl.DataFrame:
    return (
        rows.sort("latent", "protein", "activation", descending=[False, False, True])
        .group_by("latent", "protein", maintain_order=True)
        .first()
        .select("latent", "protein", "sequence_id", "activation", "position")
        .sort("latent", "activation", "protein", descending=[False, True, False])
    )


def _taxonomy(work: Path, like: MadeUp, generator: np.random.Generator) -> dict[str, Any]:
    taxa = [f"{name} {number}" for number in range(4) for name in like.taxa]
    count = (like.latents - SILENT) * len(taxa)
    proteins = np.full(count, 20)
    firing = generator.integers(1, 21, count)
    q = generator.random(count)
    q[generator.random(count) < 0.2] = np.nan
    table = pl.DataFrame(
        {
            "latent": np.repeat(np.arange(like.latents - SILENT), len(taxa)),
            "taxon": taxa * (like.latents - SILENT),
            "proteins": proteins,
            "firing_proteins": firing,
            "firing_frequency": firing / proteins,
            "frequency_low": np.maximum(firing / proteins - 0.2, 0),
            "frequency_high": np.minimum(firing / proteins + 0.2, 1),
            "mean_activation": 1.0,
            "normalized_frequency": 0.1,
            "other_frequency": generator.random(count),
            "log2_ratio": 0.5,
            "clusters": 15,
            "firing_clusters": np.minimum(firing, 15),
            "specificity": 0.9,
            "odds_ratio": generator.exponential(2, count),
            "odds_ratio_low": 0.5,
            "odds_ratio_high": np.inf,
            "p_value": q / 10,
            "q_value": q,
            "q_value_dependent": np.minimum(q * 5, 1),
            "taxonomic": q < 0.05,
        }
    ).with_columns(pl.col("p_value", "q_value", "q_value_dependent").fill_nan(None))
    table = table.with_columns(pl.col("taxonomic") & pl.col("q_value").is_not_null())
    table.cast(tables.TAXONOMY_SCHEMA).write_parquet(work / tables.TAXONOMY)
    (work / tables.HEATMAP).write_bytes(_PNG)
    counts = {"taxa": len(taxa), "proteins": 20 * len(taxa), "latents": like.latents}
    tested = dict.fromkeys(("tested_pairs", "untested_pairs", "significant_pairs"), count)
    tested |= {"significant_pairs_dependent": 1, "taxonomic_latents": 1, "permutations": 0}
    return counts | tested | {"naive_latents": 5, "naive_taxa": 3}


def _concepts(work: Path, latents: int, generator: np.random.Generator) -> dict[str, Any]:
    concepts = [("name", "Kinase", "protein"), ("sequence", "N-X-S/T", "residue")]
    concepts += [("name", "<i>Rare family</i>", "protein")]
    count = latents * len(concepts)
    f1 = generator.random((4, count))
    best = generator.integers(0, latents, len(concepts))
    latent = np.repeat(np.arange(latents), len(concepts))
    pl.DataFrame(
        {
            "latent": latent,
            **{
                key: [concept[place] for concept in concepts] * latents
                for place, key in enumerate(("source", "concept", "level"))
            },
            "threshold": 0.5,
            "validation_precision": f1[0],
            "validation_recall": f1[0],
            "validation_f1": f1[0],
            "test_precision": f1[1],
            "test_recall": f1[2],
            "test_f1": f1[3],
            "auroc": 0.75,
            "chosen": latent == np.tile(best, latents),
        }
    ).cast(tables.FEATURE_CONCEPT_SCHEMA).write_parquet(work / tables.FEATURE_CONCEPTS)
    _table(
        tables.CONCEPT_SCHEMA,
        {
            **{
                key: [concept[place] for concept in concepts]
                for place, key in enumerate(("source", "concept", "level"))
            },
            "positives": 30,
            "validation_positives": 8,
            "test_positives": 8,
            "validation_clusters": 5,
            "test_clusters": 5,
            "eligible": [True, True, False],
            "latent": best,
            "threshold": 0.5,
            "validation_f1": [0.5, 0.75, 0.25],
            "test_f1": [0.4, 0.7, 0.1],
            "f1_low": [0.2, 0.6, 0.0],
            "f1_high": [0.6, 0.8, 0.3],
            "trivial_f1": [0.1, 0.7, 0.1],
            "validation_trivial_f1": [0.1, 0.7, 0.1],
            "auroc": [0.8, 0.9, 0.6],
        },
    ).write_parquet(work / tables.CONCEPTS)
    (work / tables.CONCEPT_COMPARISON).write_bytes(_PNG)
    pooled = {"level": "protein", "concepts": 2, "pooled_f1": 0.5}
    return {"pooled": [pooled | {"pooled_f1_low": 0.4, "pooled_f1_high": 0.6}]}


def _clusters(work: Path, latents: int, generator: np.random.Generator) -> dict[str, Any]:
    _table(
        tables.MARKED_CLUSTER_SCHEMA,
        {
            "latent": np.arange(latents),
            "cluster": np.arange(latents) % 3,
            "label": [("kinase", None, "zinc")[number % 3] for number in range(latents)],
            "size": 12,
            "train_f1": 0.5,
            "precision": 0.6,
            "recall": 0.7,
            "f1": 0.65,
            "held_out": 4,
        },
    ).write_parquet(work / tables.MARKED_CLUSTERS)
    _table(
        tables.NEAR_DUPLICATE_SCHEMA,
        {"latent": [0, 0], "other": [1, 2], "cosine": [0.9, 0.95], "correlation": [0.5, None]},
    ).write_parquet(work / tables.NEAR_DUPLICATES)
    x, y = generator.normal(size=(2, latents))
    pl.DataFrame(
        {
            "latent": np.arange(latents),
            "x": x,
            "y": y,
            "cluster": np.arange(latents) % 4 - 1,
            "probability": 0.5,
        }
    ).cast(tables.LATENT_MAP_SCHEMA).write_parquet(work / tables.LATENT_MAP)
    return {}


def _matches(work: Path, like: MadeUp, generator: np.random.Generator) -> dict[str, Any]:
    latents = like.latents - SILENT
    parts = [
        _table(
            tables.MATCH_SCHEMA,
            {
                "sae": tables.MAIN,
                "other": tables.REPLICATE,
                "k": like.k,
                "other_k": other,
                "latent": np.arange(latents),
                "cosine_latent": generator.integers(0, latents, latents),
                "cosine": generator.random(latents),
                "cosine_mutual": generator.random(latents) < 0.5,
                "correlation_latent": generator.integers(0, latents, latents),
                "correlation": generator.random(latents),
                "correlation_mutual": generator.random(latents) < 0.5,
            },
        )
        for other in (like.k, 2 * like.k)
    ]
    pl.concat(parts).write_parquet(work / tables.MATCHES)
    shares = {
        f"{by}_{name}": 0.125 * place
        for by in ("cosine", "correlation")
        for place, name in enumerate(("chance", "matched", "ceiling"))
    }
    of = {"sae": tables.MAIN, "other": tables.REPLICATE, "k": [like.k] * 2}
    comparison = of | {"other_k": [like.k, 2 * like.k], "live": latents, "split": 3} | shares
    table = _table(tables.MATCH_COMPARISON_SCHEMA, comparison)
    table.write_parquet(work / tables.MATCH_COMPARISON)
    (work / tables.MATCH_FIGURE).write_bytes(_PNG)
    return {}


def _summary(
    like: MadeUp,
    rows: pl.DataFrame,
    pairs: pl.DataFrame,
    sequences: pl.DataFrame,
    generator: np.random.Generator,
) -> pl.DataFrame:
    every = pl.DataFrame({"latent": np.arange(like.latents, dtype=np.uint32)})
    by_latent = rows.group_by("latent").agg(
        firing_rows=pl.len(),
        mean_activation=pl.col("activation").mean(),
        max_activation=pl.col("activation").max(),
        histogram=pl.col("activation"),
    )
    named = sequences.with_columns(
        pl.Series("name", [parse_header(header).name for header in sequences["header"]])
    ).select("protein", "name", "taxon")
    top = pairs.group_by("latent", maintain_order=True).head(TOP)
    top = top.join(named, on="protein", how="left", maintain_order="left")
    fields = ("protein", "sequence_id", "name", "taxon", "activation", "position")
    top = top.group_by("latent", maintain_order=True).agg(
        top_proteins=pl.struct(*fields), common_name=pl.col("name").first()
    )
    firing = pairs.group_by("latent").agg(firing_proteins=pl.len())
    table = every
    for part in (by_latent, firing, top):
        table = table.join(part, on="latent", how="left", maintain_order="left")
    histograms = [
        [0] * BINS
        if values is None
        else np.histogram(values, bins=BINS, range=(0, max(values)))[0].tolist()
        for values in table["histogram"].to_list()
    ]
    zero = ("firing_rows", "firing_proteins", "mean_activation", "max_activation")
    table = table.with_columns(
        pl.col(*zero).fill_null(0),
        pl.col("top_proteins").fill_null([]),
        pl.Series("histogram", histograms, dtype=pl.List(pl.UInt32)),
    ).with_columns(
        density=pl.col("firing_rows") / (rows["row"].max() + 1),
        protein_density=pl.col("firing_proteins") / like.proteins,
    )
    residues = like.pooling == "residue" and like.sequences_known
    fires = table["firing_rows"].to_numpy() > 0
    only = [pl.Series("fires", fires)]
    known = {
        "common_name_count": 5,
        "top_residue": "K" if residues else None,
        "top_residue_share": 0.6 if residues else None,
        "top_residue_background": 0.07 if residues else None,
        "residues": [[1 / 26] * 26] * like.latents if residues else None,
        **_additions(like, generator),
    }
    table = table.with_columns(
        **{
            name: value if isinstance(value, pl.Series) else _column(value, like.latents)
            for name, value in known.items()
        }
    )
    silenced = pl.when(only[0]).then(pl.col(*known)).otherwise(None)
    return table.with_columns(silenced).cast(tables.SUMMARY_ADDITIONS)


def _column(value: Any, count: int) -> pl.Series:
    return pl.Series(value if isinstance(value, list | np.ndarray) else [value] * count)


def _additions(like: MadeUp, generator: np.random.Generator) -> dict[str, Any]:
    count = like.latents
    number = np.arange(count)
    stable = number % 3 == 0
    kinds = ("family", "residue", "concept", "taxon", None)
    labels = ("Kinase", "lysine", "N-glycosylation sites", "Homo sapiens", None)
    return dict.fromkeys(tables.SUMMARY_ADDITIONS) | {
        "best_taxon": "Homo sapiens 0",
        "best_taxon_odds_ratio": generator.exponential(2, count),
        "best_taxon_q": generator.random(count),
        "taxonomic": number % 7 == 0,
        "best_concept": [("Kinase", "N-X-S/T")[place % 2] for place in number],
        "best_concept_source": [("name", "sequence")[place % 2] for place in number],
        "best_concept_validation_f1": generator.random(count),
        "best_concept_f1": generator.random(count),
        "best_concept_auroc": generator.random(count),
        "marked_cluster": number % 3,
        "marked_cluster_label": [("kinase", None, "zinc")[place % 3] for place in number],
        "marked_cluster_f1": 0.65,
        "decoder_cluster": number % 4 - 1,
        "map_x": generator.normal(size=count),
        "map_y": generator.normal(size=count),
        "nearest_latent": (number + 1) % count,
        "nearest_cosine": generator.random(count),
        "stability_cosine": generator.random(count),
        "stability_correlation": np.where(stable, 0.9, generator.random(count)),
        "stable": stable,
        "similarity_clusters": 9 if like.families else None,
        "similarity_entropy": generator.random(count) if like.families else None,
        "memory": number % 11 == 0 if like.families else None,
        "label": [labels[place % 5] for place in number],
        "label_kind": [kinds[place % 5] for place in number],
        "label_score": [None if place % 5 == 4 else 0.25 + place % 3 / 4 for place in number],
        "label_level": ["protein" if place % 5 == 0 else "residue" for place in number],
        "label_threshold": 0.5,
        "label_precision": 0.6,
        "label_recall": 0.7,
        "label_baseline": 0.1,
        "label_held_out": 12,
    }
