"""The tables of matched latents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from esm_sae.analysis.latents.pair_matches import Best, PairMatch
from esm_sae.formats.analysis_tables import (
    MAIN,
    MATCH_COMPARISON_SCHEMA,
    MATCH_SCHEMA,
    STABILITY_SCHEMA,
)


def match_table(pairs: Sequence[PairMatch]) -> pl.DataFrame:
    """Return the nearest latents of each live latent in each other SAE.

    A row per latent and other SAE, in the order of the pairs, then of the latents: sae, other
    (``main`` or ``replicate``), k, other_k, latent; cosine_latent, cosine and cosine_mutual, by
    decoder rows; correlation_latent, correlation and correlation_mutual, by activations. No row
    where the other SAE has no live latent.
    """
    tables = []
    for pair in pairs:
        if not len(pair.other.numbers):
            continue
        columns: dict[str, Any] = {"latent": pair.one.numbers}
        for name in ("cosine", "correlation"):
            best: Best = getattr(pair, name)
            columns[f"{name}_latent"] = pair.other.numbers[best.place]
            columns[name], columns[f"{name}_mutual"] = best.value, best.mutual
        tables.append(_named(pair, pl.DataFrame(columns), MATCH_SCHEMA))
    return pl.concat([pl.DataFrame(schema=MATCH_SCHEMA), *tables])


def comparison_table(pairs: Sequence[PairMatch], splits: pl.DataFrame) -> pl.DataFrame:
    """Return what share of the live latents of each SAE each other one has too.

    A row per ordered pair of SAEs: sae, other, k, other_k; live, rare and silent latents of
    ``sae`` (firing on 10 rows or more, on fewer, on none); and for ``cosine`` and ``correlation``

    - _matched: share of the live latents whose nearest is above 0.7. Several may have one nearest.
    - _mutual: share of them that are also the nearest of their nearest.
    - _median: of how near the nearest are.
    - _ceiling: ``_matched`` with the replicate of the same k; null where there is none.
    - _chance and _chance_median: ``_matched`` and ``_median`` by chance; see ``match_pair``.

    And split: latents of ``sae`` that latents of ``other`` share, see ``split_latents``, and
    split_at_same_k: the same with the replicate of the same k. Shares are null where ``sae`` has
    no live latent.
    """
    table = pl.concat([_named(pair, pl.DataFrame([_figures(pair)]), _MEASURED) for pair in pairs])
    per_pair = splits.group_by(_PAIR).agg(split=pl.col("latent").n_unique())
    table = table.join(per_pair, on=_PAIR, how="left", maintain_order="left").with_columns(
        pl.col("split").fill_null(0)
    )
    ceilings = table.filter(pl.col("k") == pl.col("other_k")).select(
        "sae",
        "k",
        cosine_ceiling="cosine_matched",
        correlation_ceiling="correlation_matched",
        split_at_same_k="split",
    )
    table = table.join(ceilings, on=["sae", "k"], how="left", maintain_order="left")
    schema = pl.Schema(MATCH_COMPARISON_SCHEMA)
    return table.select(list(MATCH_COMPARISON_SCHEMA)).cast(schema)


def stability_table(pairs: Sequence[PairMatch]) -> pl.DataFrame:
    """Return how each live latent is found again by the training of the same k from another seed.

    A row per k and live latent: k, latent, cosine and correlation (with its nearest there),
    stable: by decoder rows or by activations, each is the other's nearest and they are matched.
    """
    tables = [
        _named(
            pair,
            pl.DataFrame(
                {
                    "latent": pair.one.numbers,
                    "cosine": pair.cosine.value,
                    "correlation": pair.correlation.value,
                    "stable": _mutually_matched(pair.cosine) | _mutually_matched(pair.correlation),
                }
            ),
            STABILITY_SCHEMA,
        )
        for pair in pairs
        if pair.one.sae == MAIN and pair.one.k == pair.other.k and len(pair.other.numbers)
    ]
    return pl.concat([pl.DataFrame(schema=STABILITY_SCHEMA), *tables])


def summary_of(comparison: pl.DataFrame, stability: pl.DataFrame) -> dict[str, Any]:
    """Return the figures of the two tables that say most, of ``main`` SAEs by their k."""
    main = comparison.filter(pl.col("sae") == MAIN)
    same, across = pl.col("k") == pl.col("other_k"), pl.col("k") != pl.col("other_k")
    by_k = main.unique("k", keep="first", maintain_order=True)
    ceilings = main.filter(same)
    figures: dict[str, Any] = {
        "live_latents": _by_k(by_k, "live"),
        "stable_latents": _by_k(
            stability.group_by("k", maintain_order=True).agg(pl.col("stable").sum()), "stable"
        ),
    }
    for name in ("cosine", "correlation"):
        figures[f"{name}_matched_at_same_k"] = _by_k(ceilings, f"{name}_matched")
        figures[f"{name}_matched_across_k"] = main.filter(across)[f"{name}_matched"].mean()
    larger = main.filter(pl.col("other_k") > pl.col("k"))
    figures["split_latents_at_same_k"] = int(ceilings["split"].sum())
    figures["split_latents_at_larger_k"] = int(larger["split"].sum())
    return figures


_PAIR = ["sae", "other", "k", "other_k"]
_ADDED = ("cosine_ceiling", "correlation_ceiling", "split", "split_at_same_k")
_MEASURED = {name: of for name, of in MATCH_COMPARISON_SCHEMA.items() if name not in _ADDED}


def _named(pair: PairMatch, table: pl.DataFrame, schema: dict[str, Any]) -> pl.DataFrame:
    """Put the SAEs of a pair before a table, as far as its schema has them."""
    names = {
        "sae": pair.one.sae,
        "other": pair.other.sae,
        "k": pair.one.k,
        "other_k": pair.other.k,
    }
    table = table.with_columns(pl.lit(of).alias(name) for name, of in names.items())
    return table.select(list(schema)).cast(pl.Schema(schema))


def _figures(pair: PairMatch) -> dict[str, Any]:
    one = pair.one
    figures: dict[str, Any] = {"live": len(one.numbers), "rare": one.rare, "silent": one.silent}
    chances = {"cosine": pair.cosine_chance, "correlation": pair.correlation_chance}
    for name, chance in chances.items():
        best: Best = getattr(pair, name)
        by_chance = Best(best.place, chance, best.mutual)
        figures |= {
            f"{name}_matched": _mean(best.matched),
            f"{name}_mutual": _mean(_mutually_matched(best)),
            f"{name}_median": _median(best.value),
            f"{name}_chance": _mean(by_chance.matched),
            f"{name}_chance_median": _median(chance),
        }
    return figures


def _mutually_matched(best: Best) -> np.ndarray:
    return best.matched & best.mutual


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) and not np.isnan(values).any() else None


def _by_k(table: pl.DataFrame, column: str) -> dict[str, Any]:
    return {str(k): value for k, value in table.select("k", column).iter_rows()}
